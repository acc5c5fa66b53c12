//! `[sync]`: everything that is wrong with it.

use super::{faults::check, *};

#[test]
fn peers() {
    let expected = "expected an IP address and port, such as \"127.0.0.1:9750\"";
    check(
        &[
            (
                "[sync]",
                &[
                    "7:1: key \"key_file\" is missing in [sync]",
                    "7:1: key \"listen\" is missing in [sync]",
                    "7:1: key \"peers\" is missing in [sync]",
                ],
            ),
            (
                "[sync]\nlisten = \"lb-1\"\npeers = [\"10.0.0.2\"]\nkey_file = \"sync.key\"\n\
                 keyfile = 1\nprobe = \"1ms\"",
                &[
                    &format!("8:10: listen: found \"lb-1\", {expected}"),
                    &format!("9:10: peers: found \"10.0.0.2\", {expected}"),
                    "10:12: key_file: found \"sync.key\", expected an absolute path",
                    "11:1: unknown key \"keyfile\" in [sync]; did you mean \"key_file\"?",
                    "12:9: probe: found \"1ms\", expected a duration from 2ms to 1s, or \
                     \"0s\" for off",
                ],
            ),
            (
                "[sync]\nlisten = \"10.0.0.1:9751\"\nkey_file = \"/sync.key\"\n\
                 peers = [\"10.0.0.1:9751\", \"0.0.0.0:9751\", \"10.0.0.2:9751\", \
                 \"10.0.0.2:9751\"]",
                &[
                    "10:9: peers: 10.0.0.2:9751 is given twice",
                    "10:9: peers: found 0.0.0.0:9751, expected the address and port of one \
                     balancer",
                    "10:9: peers: found 10.0.0.1:9751, where this node listens itself; expected \
                     the others alone",
                ],
            ),
            (
                "[sync]\nlisten = \"10.0.0.1:9751\"\nkey_file = \"/sync.key\"\n\
                 peers = [\"10.0.0.2:9751\"]\nfence = [\"off\"]\n\
                 witness = [\"10.0.0.2\", \"10.0.0.9\", \"10.0.0.9\", \"fe80::1\"]",
                &[
                    "11:9: fence: the program is named by an absolute path",
                    "12:11: witness: 10.0.0.2 is one of the peers; expected a host that is there \
                     when they are not",
                    "12:11: witness: 10.0.0.9 is given twice",
                    "12:11: witness: fe80::1 is link-local, which names no interface; expected an \
                     address that routes lead to",
                ],
            ),
            (
                "[sync]\nlisten = \"0.0.0.0:0\"\nkey_file = \"/sync.key\"\npeers = []",
                &[
                    "8:10: listen: found 0.0.0.0:0, expected a port that peers know",
                    "10:9: peers: found an empty list, expected a list of the other balancers' \
                     addresses and ports, such as [\"192.168.1.2:9751\"]",
                ],
            ),
        ],
        SERVICE,
    );
}
