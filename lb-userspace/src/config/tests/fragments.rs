//! Which services may take any fragments.

use super::{faults::faults, *};

#[test]
fn a_service_takes_any_where_a_datagram_stays_whole() {
    for lines in ["protocol = \"udp\"", "algorithm = \"ip_hash\""] {
        assert_eq!(service(lines).fragments, Fragments::Follow);
        let lines = format!("{lines}\nfragments = \"any\"");
        assert_eq!(service(&lines).fragments, Fragments::Any);
    }
    let cases = [
        ("fragments = \"all\"", "fragments: found \"all\", expected \"follow\" or \"any\""),
        (
            "fragments = \"any\"",
            "fragments = \"any\": a TCP connection of which some packets are fragments would go to \
             two backends; use algorithm = \"ip_hash\"",
        ),
        (
            "fragments = \"any\"\nprotocol = \"udp\"\nalgorithm = \"round_robin\"",
            "fragments = \"any\": \"round_robin\" chooses per flow, which fragments do not tell; use \
             \"maglev\" or \"ip_hash\"",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(faults(&format!("{SERVICE}{text}")), [format!("7:13: {expected}")]);
    }
}

#[test]
fn only_one_of_an_address_and_protocol_does() {
    let second = "protocol = \"udp\"\nfragments = \"any\"\n[[service]]\nname = \"dns\"\n\
                  address = \"192.0.2.1\"\nport = 53\nprotocol = \"udp\"\nfragments = \"any\"";
    assert_eq!(
        faults(&format!("{SERVICE}{second}")),
        ["14:13: fragments = \"any\" for 192.0.2.1 udp is given already on line 8"]
    );
    let other = second.replace("\"udp\"\nfragments = \"any\"\n[", "\"udp\"\n[");
    read(&format!("{SERVICE}{other}"));
}
