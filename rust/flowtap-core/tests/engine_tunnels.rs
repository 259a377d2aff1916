//! What goes through the tap's own tunnels, and what carries it, is never tapped.
#![cfg(test)]

mod frames;
mod tables;

use std::sync::Arc;

use flowtap_core::batch::CopyBatch;
use flowtap_core::criteria::AddressSpace;
use flowtap_core::decode::InnerTunnels;
use flowtap_core::engine::{Engine, EngineOptions, Framing, Verdict};
use flowtap_core::frame::LinkType;
use flowtap_core::local::LocalAddresses;
use flowtap_core::own::{OwnEndpoint, OwnSource, OwnTraffic, OwnTunnel, Unproven, prove};
use flowtap_core::packet::Address;
use flowtap_core::table::{Destination, Entry, FilterTable, Scope};
use frames::{ethernet, frame, ipv4, ipv4_fragment, ipv6, udp};
use proptest::prelude::*;
use tables::{destination, from};

const GATEWAY: [u8; 4] = [100, 100, 100, 100];
const PARTY: [u8; 4] = [123, 123, 123, 123];
const SPEAKER: [u8; 4] = [100, 100, 100, 101];
const DEVICE: [u8; 4] = [2, 2, 2, 2];
const SUBJECT: [u8; 4] = [198, 51, 100, 2];

fn v4(octets: [u8; 4]) -> Address {
    Address::V4(u32::from_be_bytes(octets))
}

/// 2001:db8:: and this number.
fn v6(last: u8) -> Address {
    Address::V6(0x2001_0db8 << 96 | u128::from(last))
}

fn space(text: &str) -> AddressSpace {
    AddressSpace::parse(text).unwrap()
}

fn tunnels() -> Vec<OwnTunnel> {
    vec![
        OwnTunnel {
            local_gateway: v4(GATEWAY),
            remote_gateway: v4(PARTY),
            local_networks: space("100.100.100.101,2001:db8::31"),
            remote_networks: space("2.2.2.0/27,2001:db8::40/124"),
        },
        OwnTunnel {
            local_gateway: v6(1),
            remote_gateway: v6(2),
            local_networks: space("100.100.100.101"),
            remote_networks: space("3.3.3.0/24"),
        },
    ]
}

fn local() -> LocalAddresses {
    [v4(GATEWAY), v4(SPEAKER), v6(1), v6(0x31)]
        .into_iter()
        .collect()
}

fn everything(circuit: bool) -> Entry {
    Entry {
        scope: Scope {
            circuit,
            ..Scope::default()
        },
        ..from(1, "*")
    }
}

fn engine_with(entries: Vec<Entry>, own: OwnTraffic, inner: InnerTunnels) -> Engine {
    let table = FilterTable::compile(entries, Vec::new()).unwrap();
    let options = EngineOptions {
        framing: Framing::Payload,
        inner,
        ..EngineOptions::default()
    };
    let mut engine = Engine::new(Arc::new(table), options);
    engine.set_local_addresses(Arc::new(local()));
    engine.set_own_traffic(own);
    engine
}

fn engine(circuit: bool, inner: InnerTunnels) -> Engine {
    let own = OwnTraffic::default().through(tunnels());
    engine_with(vec![everything(circuit)], own, inner)
}

fn verdict(engine: &mut Engine, packet: &[u8]) -> Verdict {
    let frame = frame(packet, LinkType::Raw);
    engine.process(&frame, 0, &mut CopyBatch::new(), &mut ())
}

/// Engines whose criterion matches everything, by packets and by whole frames, without and with a look inside.
fn engines() -> Vec<Engine> {
    [false, true]
        .into_iter()
        .flat_map(|circuit| {
            [InnerTunnels::default(), InnerTunnels::ALL].map(|inner| engine(circuit, inner))
        })
        .collect()
}

/// An IPv6 fragment: a first one, or a later one that names this next header.
fn ipv6_fragment(from: u8, to: u8, next_header: u8, later: bool, data: &[u8]) -> Vec<u8> {
    let field: u16 = if later { 1480 } else { 1 };
    let mut payload = vec![next_header, 0];
    payload.extend(field.to_be_bytes());
    payload.extend([0, 0, 0, 9]);
    payload.extend(data);
    ipv6(from, to, 44, &payload)
}

#[test]
fn what_carries_a_tunnel_is_own_and_nothing_beside_it() {
    let esp = &[0; 40][..];
    let nat = udp(4500, 4500, esp);
    let own = [
        ipv4(GATEWAY, PARTY, 50, esp),
        ipv4(PARTY, GATEWAY, 50, esp),
        ipv4(PARTY, GATEWAY, 51, esp),
        ipv4(GATEWAY, PARTY, 17, &udp(500, 500, b"ike")),
        ipv4(PARTY, GATEWAY, 17, &nat),
        // Behind a translation the port is another on one side.
        ipv4(PARTY, GATEWAY, 17, &udp(1024, 4500, b"")),
        ipv4(GATEWAY, PARTY, 17, &udp(4500, 1024, b"")),
        ipv4_fragment(GATEWAY, PARTY, 50, esp, 0, true, 7),
        ipv4_fragment(GATEWAY, PARTY, 50, esp, 1480, false, 7),
        ipv4_fragment(PARTY, GATEWAY, 17, esp, 1480, false, 7),
        ipv6(1, 2, 50, esp),
        ipv6(2, 1, 17, &udp(500, 500, b"ike")),
        // AH in front of another IP packet, and in fragments.
        ipv6(
            1,
            2,
            51,
            &[
                41, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
            ],
        ),
        ipv6_fragment(
            1,
            2,
            51,
            false,
            &[
                41, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
            ],
        ),
        ipv6_fragment(1, 2, 51, true, esp),
        ipv6_fragment(1, 2, 50, false, esp),
        ipv6_fragment(2, 1, 50, true, esp),
        ipv6_fragment(2, 1, 17, true, esp),
        // Destination options come behind the fragment header, so this one names no protocol.
        ipv6_fragment(2, 1, 60, true, esp),
    ];
    let others = [
        ipv4(GATEWAY, PARTY, 6, &udp(500, 500, &[0; 12])),
        ipv4(GATEWAY, PARTY, 17, &udp(501, 4501, b"")),
        ipv4(GATEWAY, PARTY, 4, &ipv4(GATEWAY, PARTY, 50, esp)),
        ipv4(SUBJECT, PARTY, 50, esp),
        ipv4(GATEWAY, SUBJECT, 17, &udp(500, 500, b"ike")),
        ipv4(SPEAKER, PARTY, 17, &nat),
        ipv4_fragment(SUBJECT, PARTY, 50, esp, 1480, false, 7),
        ipv4_fragment(GATEWAY, PARTY, 6, esp, 1480, false, 7),
        ipv6(1, 3, 50, esp),
        ipv6(1, 2, 41, esp),
        ipv6_fragment(3, 1, 50, true, esp),
    ];
    for mut engine in engines() {
        for packet in &own {
            assert_eq!(verdict(&mut engine, packet), Verdict::Own, "{packet:?}");
        }
        for packet in &others {
            let found = verdict(&mut engine, packet);
            // A fragment of what may carry packets may have to wait.
            assert!(
                matches!(found, Verdict::Matched | Verdict::Held),
                "{packet:?}"
            );
        }
        let stats = engine.stats();
        stats.check().unwrap();
        assert_eq!(stats.own, own.len() as u64);
    }
}

/// An error message about a packet, from a router on the way or the host at the end.
fn error(from: [u8; 4], to: [u8; 4], kind: u8, about: &[u8]) -> Vec<u8> {
    let quoted = about.get(..28).unwrap_or(about);
    ipv4(
        from,
        to,
        1,
        &[&[kind, 3, 0, 0, 0, 0, 0, 0], quoted].concat(),
    )
}

#[test]
fn an_error_about_a_packet_of_the_tunnel_is_own() {
    let router = [198, 51, 100, 1];
    let esp = ipv4(GATEWAY, PARTY, 50, &[0; 40]);
    let nat = ipv4(GATEWAY, PARTY, 17, &udp(4500, 4500, &[0; 40]));
    let inside = ipv4(SPEAKER, DEVICE, 17, &udp(9, 9, b"x"));
    let v6 = ipv6(1, 2, 50, &[0; 40]);
    let own = [
        error(router, GATEWAY, 3, &esp),
        error(PARTY, GATEWAY, 3, &nat),
        error(router, GATEWAY, 11, &esp),
        error(router, SPEAKER, 3, &inside),
        // About what was sent to this host.
        error(router, PARTY, 3, &ipv4(PARTY, GATEWAY, 50, &[0; 40])),
        ipv6(7, 1, 58, &[&[1, 4, 0, 0, 0, 0, 0, 0][..], &v6].concat()),
    ];
    let others = [
        // Who quotes it to somebody else hides something.
        error(router, SUBJECT, 3, &esp),
        error(SUBJECT, DEVICE, 3, &esp),
        // No error: an echo that looks like one inside.
        error(router, GATEWAY, 8, &esp),
        error(router, GATEWAY, 3, &ipv4(GATEWAY, SUBJECT, 50, &[0; 40])),
        ipv4(router, GATEWAY, 1, &[3, 3, 0, 0]),
        ipv6(7, 1, 58, &[&[128, 0, 0, 0, 0, 0, 0, 0][..], &v6].concat()),
    ];
    for mut engine in engines() {
        for packet in &own {
            assert_eq!(verdict(&mut engine, packet), Verdict::Own, "{packet:?}");
        }
        for packet in &others {
            assert_eq!(verdict(&mut engine, packet), Verdict::Matched, "{packet:?}");
        }
    }
}

#[test]
fn what_is_inside_is_own_where_this_host_is_one_of_the_ends() {
    let datagram = udp(9, 9, b"x");
    let own = [
        ipv4(SPEAKER, DEVICE, 17, &datagram),
        ipv4(DEVICE, SPEAKER, 17, &datagram),
        ipv4(DEVICE, SPEAKER, 1, &[8, 0, 0, 0, 0, 0, 0, 0]),
        ipv4(SPEAKER, [3, 3, 3, 9], 6, &[0; 20]),
        ipv4_fragment(SPEAKER, DEVICE, 6, &[7; 16], 1480, false, 7),
        ipv6(0x31, 0x42, 58, &[128, 0, 0, 0]),
        ipv6_fragment(0x42, 0x31, 60, true, &[0; 16]),
    ];
    let others = [
        // A subject who talks to the third party's network from elsewhere.
        ipv4(SUBJECT, DEVICE, 17, &datagram),
        ipv4(DEVICE, SUBJECT, 17, &datagram),
        // Another address of this host.
        ipv4(GATEWAY, DEVICE, 17, &datagram),
        ipv4(SPEAKER, SUBJECT, 17, &datagram),
        ipv4(SPEAKER, [2, 2, 2, 32], 17, &datagram),
        // What somebody else encapsulates belongs to him.
        ipv4(SUBJECT, PARTY, 4, &ipv4(SPEAKER, DEVICE, 17, &datagram)),
        ipv6(0x31, 0x52, 17, &datagram),
    ];
    for mut engine in engines() {
        for packet in &own {
            assert_eq!(verdict(&mut engine, packet), Verdict::Own, "{packet:?}");
        }
        for packet in &others {
            assert_eq!(verdict(&mut engine, packet), Verdict::Matched, "{packet:?}");
        }
    }
}

#[test]
fn the_other_side_s_local_network_is_not_enough_and_without_a_host_it_is() {
    let packet = ipv4(SPEAKER, DEVICE, 17, &udp(9, 9, b"x"));
    let mut engine = engine(false, InnerTunnels::default());
    let elsewhere = [v4(GATEWAY)].into_iter().collect();
    engine.set_local_addresses(Arc::new(elsewhere));
    assert_eq!(verdict(&mut engine, &packet), Verdict::Matched);
    // In a capture nobody knows whose addresses were whose.
    let table = FilterTable::compile(vec![everything(false)], Vec::new()).unwrap();
    let mut replayed = Engine::new(Arc::new(table), EngineOptions::default());
    replayed.set_own_traffic(OwnTraffic::default().through(tunnels()));
    assert_eq!(verdict(&mut replayed, &packet), Verdict::Own);
    let subject = ipv4(SUBJECT, DEVICE, 17, &udp(9, 9, b"x"));
    assert_eq!(verdict(&mut replayed, &subject), Verdict::Matched);
}

#[test]
fn the_outermost_packet_decides() {
    let esp = ipv4(GATEWAY, PARTY, 50, &[0; 40]);
    // GRE, protocol IPv4.
    let gre = [&[0, 0, 8, 0][..], &esp].concat();
    let wrapped = ipv4(SUBJECT, DEVICE, 47, &gre);
    let around = ipv4(
        GATEWAY,
        PARTY,
        17,
        &udp(4500, 4789, &[8, 0, 0, 0, 0, 0, 0, 0]),
    );
    for mut engine in engines() {
        assert_eq!(verdict(&mut engine, &wrapped), Verdict::Matched);
        assert_eq!(verdict(&mut engine, &around), Verdict::Own);
        // Tags in front of it change nothing.
        let tagged = ethernet(&[&[0x81, 0, 0, 5], &[8, 0]], &esp);
        let tagged = frame(&tagged, LinkType::Ethernet);
        let mut batch = CopyBatch::new();
        let found = engine.process(&tagged, 0, &mut batch, &mut ());
        assert_eq!(found, Verdict::Own);
    }
}

fn dtcp() -> OwnTraffic {
    OwnTraffic::new(vec![OwnEndpoint {
        protocol: 17,
        address: None,
        port: 1814,
    }])
}

/// A long request over UDP comes in fragments, of which the first alone shows the port.
#[test]
fn later_fragments_follow_a_first_that_was_own() {
    let first = ipv4_fragment(
        DEVICE,
        SPEAKER,
        17,
        &udp(50_000, 1814, &[0; 24]),
        0,
        true,
        7,
    );
    let later = ipv4_fragment(DEVICE, SPEAKER, 17, &[1; 16], 32, false, 7);
    let beside = ipv4_fragment(DEVICE, SPEAKER, 17, &[1; 16], 32, false, 8);
    for circuit in [false, true] {
        for inner in [InnerTunnels::default(), InnerTunnels::ALL] {
            let mut engine = engine_with(vec![everything(circuit)], dtcp(), inner);
            assert_eq!(verdict(&mut engine, &first), Verdict::Own);
            assert_eq!(verdict(&mut engine, &later), Verdict::Own);
            assert_ne!(verdict(&mut engine, &beside), Verdict::Own);
            engine.stats().check().unwrap();
        }
    }
}

#[test]
fn a_later_fragment_that_comes_early_waits_for_who_it_belongs_to() {
    let long = [9; 24];
    let first =
        |port, id| ipv4_fragment(DEVICE, SPEAKER, 17, &udp(50_000, port, &long), 0, true, id);
    let later = |id| ipv4_fragment(DEVICE, SPEAKER, 17, &[1; 16], 32, false, id);
    let mut engine = engine_with(vec![everything(false)], dtcp(), InnerTunnels::default());
    assert_eq!(verdict(&mut engine, &later(7)), Verdict::Held);
    assert_eq!(verdict(&mut engine, &later(8)), Verdict::Held);
    assert_eq!(verdict(&mut engine, &first(1814, 7)), Verdict::Own);
    assert_eq!(verdict(&mut engine, &first(1815, 8)), Verdict::Matched);
    let stats = engine.stats();
    stats.check().unwrap();
    assert_eq!((stats.own, stats.matched, stats.held), (2, 2, 0));
    // To others nothing has to wait.
    let other = ipv4_fragment(DEVICE, SUBJECT, 17, &[1; 16], 32, false, 9);
    assert_eq!(verdict(&mut engine, &other), Verdict::Matched);
}

/// ESP comes in fragments as fast as copies leave; remembering each would push out the datagrams of subjects.
#[test]
fn fragments_that_tell_by_themselves_take_no_memory() {
    let mut engine = engine(false, InnerTunnels::default());
    let of_subject =
        |offset, more| ipv4_fragment(SUBJECT, DEVICE, 17, &udp(1, 2, &[0; 24]), offset, more, 1);
    assert_eq!(verdict(&mut engine, &of_subject(0, true)), Verdict::Matched);
    for id in 0..20_000 {
        let esp = ipv4_fragment(GATEWAY, PARTY, 50, &[0; 40], 0, true, id);
        assert_eq!(verdict(&mut engine, &esp), Verdict::Own);
    }
    assert_eq!(
        verdict(&mut engine, &of_subject(32, false)),
        Verdict::Matched
    );
}

fn proof(
    own: &OwnTraffic,
    local: Option<LocalAddresses>,
    to: Vec<Destination>,
) -> Result<usize, Unproven> {
    let table = FilterTable::compile(Vec::new(), to).unwrap();
    prove(own, &table, local.map(Arc::new).as_ref(), InnerTunnels::ALL)
}

#[test]
fn the_exclusion_is_proven() {
    let copies = || {
        let chosen = Destination {
            source_port: 0,
            ..destination("cd2", "2001:db8::41", "2001:db8::31")
        };
        vec![destination("cd1", "2.2.2.2", "192.0.2.1"), chosen]
    };
    let endpoints = [
        (6, None, 32_001),
        (17, Some(v4(SPEAKER)), 1814),
        (17, Some(v6(1)), 9),
    ];
    let endpoints = endpoints.map(|(protocol, address, port)| OwnEndpoint {
        protocol,
        address,
        port,
    });
    let own = OwnTraffic::new(endpoints.to_vec()).through(tunnels());
    let with_host = proof(&own, Some(local()), copies()).unwrap();
    let without = proof(&own, None, copies()).unwrap();
    // Endpoints at any address of this host cannot be tried where there is none.
    assert!(
        with_host > without && without > 100,
        "{with_host}, {without}"
    );
    for address in [None, Some(v4(GATEWAY))] {
        let own = own.clone().sent_from(OwnSource { address, port: 9 });
        proof(&own, Some(local()), copies()).unwrap();
    }
    // Nothing is own, and others are found.
    assert_eq!(proof(&OwnTraffic::default(), None, Vec::new()), Ok(12));
}

#[test]
fn a_proof_can_fail() {
    // One side of a tunnel that holds everybody.
    let everybody = OwnTunnel {
        local_networks: space("0.0.0.0-255.255.255.255"),
        remote_networks: space("2.2.2.0/27"),
        ..tunnels().remove(0)
    };
    let own = OwnTraffic::default().through(vec![everybody]);
    let error = proof(&own, None, Vec::new()).unwrap_err();
    assert!(
        matches!(&error, Unproven::TooMuch(kinds) if kinds.len() == 3),
        "{error}"
    );
    let text = error.to_string();
    assert!(
        text.contains("UDP of others to what lies behind 123.123.123.123 (first fragment)"),
        "{text}"
    );
}

/// One of few addresses, so that they meet.
fn addresses() -> impl Strategy<Value = [u8; 4]> {
    prop_oneof![
        Just(GATEWAY),
        Just(PARTY),
        Just(SPEAKER),
        Just(DEVICE),
        Just(SUBJECT),
        Just([2, 2, 2, 31]),
        Just([2, 2, 2, 32]),
        Just([3, 3, 3, 3]),
    ]
}

#[derive(Clone, Debug)]
struct Plain {
    from: [u8; 4],
    to: [u8; 4],
    protocol: u8,
    ports: (u16, u16),
    /// Offset and whether more follow.
    fragment: (u16, bool),
}

fn packets() -> impl Strategy<Value = Plain> {
    let port = || {
        prop_oneof![
            Just(500_u16),
            Just(4500),
            Just(499),
            Just(1814),
            any::<u16>()
        ]
    };
    let protocol = prop_oneof![
        Just(50_u8),
        Just(51),
        Just(17),
        Just(6),
        Just(1),
        Just(4),
        Just(47)
    ];
    let fragment = prop_oneof![
        Just((0_u16, false)),
        Just((0, true)),
        Just((1480, true)),
        Just((1480, false))
    ];
    (
        addresses(),
        addresses(),
        protocol,
        (port(), port()),
        fragment,
    )
        .prop_map(|(from, to, protocol, ports, fragment)| Plain {
            from,
            to,
            protocol,
            ports,
            fragment,
        })
}

/// The same said again, as plainly as can be.
fn is_own(packet: &Plain, local: &[[u8; 4]]) -> bool {
    let between = |a, b| (packet.from, packet.to) == (a, b) || (packet.to, packet.from) == (a, b);
    let carries = between(GATEWAY, PARTY)
        && match packet.protocol {
            50 | 51 => true,
            17 if packet.fragment.0 > 0 => true,
            17 => {
                let (source, destination) = packet.ports;
                source == 500 || source == 4500 || destination == 500 || destination == 4500
            }
            _ => false,
        };
    let is_behind =
        |[a, b, c, d]: [u8; 4]| ([a, b, c] == [2, 2, 2] && d < 32) || [a, b, c] == [3, 3, 3];
    let is_inside =
        |here: [u8; 4], there| here == SPEAKER && local.contains(&here) && is_behind(there);
    carries || is_inside(packet.from, packet.to) || is_inside(packet.to, packet.from)
}

proptest! {
    #[test]
    fn tunnels_are_told_from_everything_else(
        arrivals in prop::collection::vec(packets(), 1..60),
        local in prop::collection::vec(addresses(), 0..4),
        circuit in any::<bool>(),
        looks_inside in any::<bool>(),
    ) {
        let inner = if looks_inside { InnerTunnels::ALL } else { InnerTunnels::default() };
        let mut engine = engine(circuit, inner);
        engine.set_local_addresses(Arc::new(local.iter().copied().map(v4).collect()));
        let mut own = 0;
        for packet in &arrivals {
            let data = udp(packet.ports.0, packet.ports.1, &[0; 24]);
            let (offset, more) = packet.fragment;
            let octets = ipv4_fragment(packet.from, packet.to, packet.protocol, &data, offset, more, 7);
            let found = verdict(&mut engine, &octets);
            prop_assert_eq!(found == Verdict::Own, is_own(packet, &local), "{:?}", packet);
            own += u64::from(is_own(packet, &local));
        }
        let stats = engine.stats();
        stats.check().unwrap();
        prop_assert_eq!(stats.own, own);
        prop_assert!(stats.matched <= stats.frames - own);
    }
}
