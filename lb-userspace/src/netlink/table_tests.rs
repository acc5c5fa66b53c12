//! Facts in, reports out.

use super::*;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 2];
const OURS: [u8; 6] = [2, 0, 0, 0, 0, 9];

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn link(index: u32, up: bool) -> LinkReport {
    LinkReport { index, name: format!("eth{index}"), mac: OURS, mtu: 1500, up, ethernet: true }
}

fn hop(interface: u32, address: &str) -> Hop {
    Hop { interface, address: ip(address) }
}

/// A route by a hop, from this host's address, that carries less than its interface.
fn on(hop: Hop) -> Route {
    Route { hop, source: Some(ip("10.0.0.254")), mtu: Some(1400) }
}

/// A table with eth1 up that watches `addresses`, and nothing reported yet.
fn watching(addresses: &[&str], now: Instant) -> Table {
    let mut table = Table::default();
    table.link(link(1, true), now);
    table.take_reports();
    let wanted = addresses.iter().map(|address| (ip(address), 1)).collect();
    assert_eq!(table.watch(&wanted).len(), addresses.len());
    table
}

/// The waiting reports on next hops: address, and destination or reason.
fn told(table: &mut Table) -> Vec<(String, Result<[u8; 6], String>)> {
    let next_hop = |report| match report {
        NetlinkReport::NextHop(NextHopReport { address, outcome }) => {
            Some((address.to_string(), outcome.map(|hop| hop.destination)))
        }
        _ => None,
    };
    table.take_reports().into_iter().filter_map(next_hop).collect()
}

fn lost(address: &str, reason: &str) -> (String, Result<[u8; 6], String>) {
    (address.to_owned(), Err(reason.to_owned()))
}

fn found(address: &str, mac: [u8; 6]) -> (String, Result<[u8; 6], String>) {
    (address.to_owned(), Ok(mac))
}

#[test]
fn an_address_on_the_link_waits_is_found_and_is_lost() {
    let now = Instant::now();
    let mut table = watching(&["10.0.0.2"], now);
    let backend = hop(1, "10.0.0.2");
    table.route(backend.address, Ok(on(backend)), now);
    assert_eq!(told(&mut table), [lost("10.0.0.2", "waiting for 10.0.0.2 to answer ARP on eth1")]);
    assert_eq!(table.questions(now, 10), [backend]);
    table.asked(backend, Ok(()), now);
    table.neighbour(backend, Some(Neighbour::Incomplete), now);
    assert_eq!(told(&mut table), [], "nothing has changed yet");
    table.neighbour(backend, Some(Neighbour::Kept(MAC)), now);
    assert_eq!(told(&mut table), [found("10.0.0.2", MAC)]);
    table.neighbour(backend, Some(Neighbour::Stale(MAC)), now);
    assert_eq!(told(&mut table), [], "stale is as good");
    table.neighbour(backend, Some(Neighbour::Stale(OTHER)), now);
    assert_eq!(told(&mut table), [found("10.0.0.2", OTHER)]);
    table.neighbour(backend, Some(Neighbour::Failed), now);
    assert_eq!(told(&mut table), [lost("10.0.0.2", "10.0.0.2 does not answer ARP on eth1")]);
}

#[test]
fn addresses_behind_one_gateway_share_its_fate_and_its_questions() {
    let now = Instant::now();
    let mut table = watching(&["172.16.0.1", "172.16.0.2"], now);
    let gateway = hop(1, "10.0.0.254");
    table.route(ip("172.16.0.1"), Ok(on(gateway)), now);
    table.route(ip("172.16.0.2"), Ok(on(gateway)), now);
    table.take_reports();
    assert_eq!(table.questions(now, 10), [gateway]);
    table.neighbour(gateway, Some(Neighbour::Kept(MAC)), now);
    assert_eq!(told(&mut table), [found("172.16.0.1", MAC), found("172.16.0.2", MAC)]);
    table.neighbour(gateway, Some(Neighbour::Failed), now);
    let reason = "gateway 10.0.0.254 does not answer ARP on eth1";
    assert_eq!(told(&mut table), [lost("172.16.0.1", reason), lost("172.16.0.2", reason)]);
}

#[test]
fn a_neighbour_that_the_kernel_knows_already_is_found_without_asking() {
    let now = Instant::now();
    let mut table = watching(&["fd00::2"], now);
    let backend = hop(1, "fd00::2");
    table.neighbour(backend, Some(Neighbour::Kept(MAC)), now);
    table.route(backend.address, Ok(on(backend)), now);
    assert_eq!(told(&mut table), [found("fd00::2", MAC)]);
    assert_eq!(table.next_question(), None);
}

#[test]
fn a_link_that_goes_down_is_the_reason_and_its_neighbours_are_sought_anew_after() {
    let now = Instant::now();
    let mut table = watching(&["10.0.0.2"], now);
    let backend = hop(1, "10.0.0.2");
    table.neighbour(backend, Some(Neighbour::Kept(MAC)), now);
    table.route(backend.address, Ok(on(backend)), now);
    table.take_reports();
    table.link(link(1, false), now);
    table.neighbour(backend, None, now);
    assert_eq!(told(&mut table), [lost("10.0.0.2", "eth1 is down")]);
    assert_eq!(table.next_question(), None, "nobody could answer");
    table.route(backend.address, Err("no route".to_owned()), now);
    table.route(backend.address, Err("no route".to_owned()), now);
    assert_eq!(told(&mut table), [lost("10.0.0.2", "no route: eth1 is down")]);
    table.link(link(1, true), now);
    table.route(backend.address, Err("no route".to_owned()), now);
    assert_eq!(told(&mut table), [lost("10.0.0.2", "no route")], "no longer the link's fault");
    table.route(backend.address, Ok(on(backend)), now);
    assert_eq!(table.questions(now, 10), [backend]);
}

#[test]
fn a_new_mac_of_ours_is_a_new_next_hop() {
    let now = Instant::now();
    let mut table = watching(&["10.0.0.2"], now);
    let backend = hop(1, "10.0.0.2");
    table.neighbour(backend, Some(Neighbour::Kept(MAC)), now);
    table.route(backend.address, Ok(on(backend)), now);
    table.take_reports();
    table.link(LinkReport { mac: OTHER, ..link(1, true) }, now);
    let next_hop = NextHop {
        interface: 1,
        source: OTHER,
        destination: MAC,
        local: Some(ip("10.0.0.254")),
        mtu: 1400,
    };
    assert!(table.take_reports().contains(&NetlinkReport::NextHop(NextHopReport {
        address: backend.address,
        outcome: Ok(next_hop),
    })));
}

#[test]
fn an_interface_without_ethernet_is_refused() {
    let now = Instant::now();
    let mut table = watching(&["10.0.0.2"], now);
    table.link(LinkReport { ethernet: false, ..link(2, true) }, now);
    table.route(ip("10.0.0.2"), Ok(on(hop(2, "10.0.0.2"))), now);
    let reason = "10.0.0.2 lies behind eth2, which is not Ethernet";
    assert_eq!(told(&mut table), [lost("10.0.0.2", reason)]);
    assert_eq!(table.next_question(), None);
}

#[test]
fn an_address_taken_off_is_silent_and_one_put_back_is_told_again() {
    let now = Instant::now();
    let mut table = watching(&["10.0.0.2"], now);
    let backend = hop(1, "10.0.0.2");
    table.neighbour(backend, Some(Neighbour::Kept(MAC)), now);
    table.route(backend.address, Ok(on(backend)), now);
    table.take_reports();
    // Off and on again between two looks of ours: only the number tells.
    let again: BTreeMap<IpAddr, u64> = [(backend.address, 3)].into();
    assert_eq!(table.watch(&again), [backend.address]);
    table.route(backend.address, Ok(on(backend)), now);
    assert_eq!(told(&mut table), [found("10.0.0.2", MAC)]);
    assert!(table.watch(&BTreeMap::new()).is_empty());
    table.neighbour(backend, Some(Neighbour::Failed), now);
    table.route(backend.address, Err("no route".to_owned()), now);
    assert_eq!(told(&mut table), []);
    assert_eq!(table.next_question(), None);
}

#[test]
fn a_resync_reports_what_changed_and_what_is_gone() {
    let now = Instant::now();
    let mut table = watching(&["10.0.0.2"], now);
    table.set_links(vec![link(1, true), link(2, true)], now);
    assert_eq!(table.take_reports(), [NetlinkReport::Link(link(2, true))]);
    let backend = hop(1, "10.0.0.2");
    table.route(backend.address, Ok(on(backend)), now);
    table.take_reports();
    table.set_neighbours(vec![(backend, Neighbour::Stale(MAC))], now);
    assert_eq!(told(&mut table), [found("10.0.0.2", MAC)]);
    table.set_links(vec![link(1, true)], now);
    let gone = NetlinkReport::LinkGone { index: 2, name: "eth2".to_owned() };
    assert_eq!(table.take_reports(), [gone]);
}
