//! What a bridge may not stand beside.

use super::*;
use std::net::Ipv4Addr;

fn subnet() -> Subnet {
    Subnet::parse("172.30.0.1/24").unwrap()
}

fn address(link: u32, address: [u8; 4], prefix: u8) -> Address {
    let address = address.into();
    Address {
        link,
        address,
        prefix,
    }
}

fn route(link: Option<u32>, destination: [u8; 4], prefix: u8) -> Route {
    Route {
        destination: Ipv4Addr::from(destination),
        prefix,
        link,
        table: 254,
    }
}

fn overlap(ours: &[u32], addresses: &[Address], routes: &[Route]) -> Result<(), Refusal> {
    check_overlap(subnet(), ours, addresses, routes, |index| {
        format!("eth{index}")
    })
}

#[test]
fn ensure_bridge_refuses_a_subnet_that_overlaps_lan_docker_or_vpn_and_names_it() {
    for (addresses, routes, named) in [
        (
            vec![address(2, [172, 30, 0, 77], 24)],
            vec![],
            "172.30.0.77/24 of eth2",
        ),
        (
            vec![address(2, [172, 30, 0, 1], 32)],
            vec![],
            "172.30.0.1/32 of eth2",
        ),
        (
            vec![address(3, [172, 16, 9, 9], 12)],
            vec![],
            "172.16.9.9/12 of eth3",
        ),
        (
            vec![],
            vec![route(Some(4), [172, 16, 0, 0], 12)],
            "172.16.0.0/12 through eth4",
        ),
        (
            vec![],
            vec![route(Some(4), [172, 30, 0, 128], 25)],
            "172.30.0.128/25 through eth4",
        ),
        (
            vec![],
            vec![route(None, [172, 0, 0, 0], 8)],
            "172.0.0.0/8 through nowhere",
        ),
    ] {
        let refusal = overlap(&[9], &addresses, &routes).unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::Foreign);
        assert!(refusal.message.contains(named), "{}", refusal.message);
    }
}

#[test]
fn ensure_bridge_takes_its_own_routes_other_networks_and_ways_out_for_none() {
    let addresses = [
        address(1, [127, 0, 0, 1], 8),
        address(2, [192, 168, 1, 7], 24),
        address(9, [172, 30, 0, 1], 24),
    ];
    let routes = [
        route(Some(2), [0, 0, 0, 0], 0),
        route(Some(3), [0, 0, 0, 0], 1),
        route(Some(3), [128, 0, 0, 0], 1),
        route(Some(9), [172, 30, 0, 0], 24),
        route(Some(2), [172, 30, 1, 0], 24),
    ];
    assert_eq!(overlap(&[9], &addresses, &routes), Ok(()));
}

#[test]
fn n16_a_bridge_of_ours_with_another_address_is_not_taken_for_this_one() {
    let check = |addresses: &[Address]| check_own_address(subnet(), Some(9), addresses);
    assert_eq!(check(&[]), Ok(()));
    assert_eq!(
        check(&[address(9, [172, 30, 0, 1], 24), address(2, [1, 1, 1, 1], 8)]),
        Ok(())
    );
    for (other, prefix) in [
        ([172, 30, 0, 2], 24),
        ([172, 30, 0, 1], 16),
        ([8, 8, 8, 8], 32),
    ] {
        assert!(
            check(&[address(9, other, prefix)]).is_err(),
            "{other:?}/{prefix}"
        );
    }
}

#[test]
fn the_port_that_is_always_up_has_a_name_that_fits_and_is_no_bridges() {
    for name in ["br-fc", "br-fc-123456789"] {
        let carrier = carrier(&BridgeName::parse(name).unwrap());
        assert!(
            carrier.len() <= 15 && BridgeName::parse(&carrier).is_err(),
            "{carrier}"
        );
    }
    assert_ne!(bridge_mac(subnet()), carrier_mac(subnet()));
}
