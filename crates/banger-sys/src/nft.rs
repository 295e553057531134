//! Elements of named nftables sets, and whether what was set is still there, by nfnetlink.
//!
//! Tables, chains and rules are not made here: `nft` loads them from text.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::netlink;

use crate::netlink::message::{Body, attribute, attributes, link_name, split_message, text};
use crate::netlink::{CREATE, DUMP, NetlinkError, Request, Socket, open_listener, receive};

/// NFNL_SUBSYS_NFTABLES and NFNLGRP_NFTABLES.
const SUBSYSTEM: u16 = 10;
const GROUP: u32 = 7;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;

// The low byte of a message's kind; linux/netfilter/nf_tables.h: NFT_MSG_*.
const GET_TABLE: u16 = 1;
const DELETE_TABLE: u16 = 2;
const GET_CHAIN: u16 = 4;
const DELETE_CHAIN: u16 = 5;
const GET_RULE: u16 = 7;
const DELETE_RULE: u16 = 8;
const DELETE_SET: u16 = 11;
const NEW_ELEMENT: u16 = 12;
const GET_ELEMENT: u16 = 13;
const DELETE_ELEMENT: u16 = 14;

/// The attribute that names the table, in messages of every kind used here.
const TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const HOOK_NUMBER: u16 = 1;
const ELEMENT_SET: u16 = 2;
const ELEMENT_LIST: u16 = 3;
const LIST_ITEM: u16 = 1;
const ELEMENT_KEY: u16 = 1;
const DATA_VALUE: u16 = 1;
/// `struct nfgenmsg`: family, version, subsystem in network order.
const FIXED: usize = 4;

/// NF_INET_FORWARD and NF_DROP, as attributes have them; NFPROTO_INET and NFPROTO_IPV4.
const FORWARD: [u8; 4] = 2_u32.to_be_bytes();
const DROP: [u8; 4] = 0_u32.to_be_bytes();
const IPV4_FAMILIES: [u8; 2] = [1, 2];

/// What packets a table sees. A table is known by its family and its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4 and IPv6.
    Inet,
    /// Frames that pass through bridges.
    Bridge,
}

/// A set in a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Set<'a> {
    /// The table's family.
    pub family: Family,
    /// The table's name.
    pub table: &'a str,
    /// The set's own name.
    pub name: &'a str,
}

/// An element of a set: the fields of the set's type, in its order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Key(Vec<u8>);

impl Key {
    /// Appends an `ifname`; `None` if no link can have this name.
    #[must_use]
    pub fn link(self, name: &str) -> Option<Self> {
        Some(self.field(&link_name(name)?))
    }

    /// Appends an `ether_addr`.
    #[must_use]
    pub fn mac(self, mac: [u8; 6]) -> Self {
        self.field(&mac)
    }

    /// Appends an `ipv4_addr`.
    #[must_use]
    pub fn address(self, address: Ipv4Addr) -> Self {
        self.field(&address.octets())
    }

    /// Fields of a concatenation start at multiples of 4 bytes; a set of one field has it unpadded,
    /// which comes to the same for the two that are used alone.
    fn field(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }
}

/// A chain that IPv4 packets pass which this host forwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardChain {
    /// Its table's name.
    pub table: String,
    /// Its own name.
    pub name: String,
    /// Whether it drops what none of its rules decides.
    pub drops: bool,
}

/// A change, made with all others of its transaction or not at all.
#[derive(Debug, Clone, Copy)]
pub enum Change<'a> {
    /// Adds an element; nothing happens if it is there.
    Add(Set<'a>, &'a Key),
    /// Removes an element; NOENT if it is not there.
    Remove(Set<'a>, &'a Key),
    /// Deletes a table with all that is in it; NOENT if it is not there.
    DeleteTable(Family, &'a str),
}

/// A socket to nftables.
#[derive(Debug)]
pub struct Nft(Socket);

impl Nft {
    /// Opens the socket.
    pub fn open() -> Result<Self, Errno> {
        Socket::open(Some(netlink::NETFILTER)).map(Self)
    }

    /// Makes `changes` in one transaction.
    pub fn apply(&mut self, changes: &[Change<'_>]) -> Result<(), NetlinkError> {
        let requests: Vec<_> = changes.iter().map(change_request).collect();
        let [low, high] = SUBSYSTEM.to_be_bytes();
        let frame = Body::default().bytes(&[0, 0, low, high]);
        self.0.transact((BATCH_BEGIN, BATCH_END, &frame), &requests)
    }

    /// Whether there is such a table.
    pub fn has_table(&mut self, family: Family, table: &str) -> Result<bool, NetlinkError> {
        let body = table_body(family, table);
        found(self.0.ask(&request("find table", GET_TABLE, 0, body)))
    }

    /// How many rules a table has; none if there is no such table.
    pub fn rule_count(&mut self, family: Family, table: &str) -> Result<usize, NetlinkError> {
        let body = table_body(family, table);
        // Kernels that do not filter by the table give those of every table.
        let names = self
            .0
            .get(&request("list rules", GET_RULE, DUMP, body), |body| {
                attribute(body, FIXED, TABLE).map(text)
            })?;
        Ok(names.iter().filter(|name| *name == table).count())
    }

    /// The chains, of anybody, that forwarded IPv4 packets pass.
    pub fn forward_chains(&mut self) -> Result<Vec<ForwardChain>, NetlinkError> {
        let of_all = Body::default().bytes(&[0; FIXED]);
        let request = request("list chains", GET_CHAIN, DUMP, of_all);
        let chains = self
            .0
            .get(&request, |body| Some(read_forward_chain(body)))?;
        Ok(chains.into_iter().flatten().collect())
    }

    /// Whether a rule of any table but `table` has these bytes in it, as a link's name in a match.
    pub fn is_named_beside(&mut self, table: &str, bytes: &[u8]) -> Result<bool, NetlinkError> {
        let of_all = Body::default().bytes(&[0; FIXED]);
        let named = self
            .0
            .get(&request("list rules", GET_RULE, DUMP, of_all), |body| {
                let of = attribute(body, FIXED, TABLE).map(text)?;
                Some(of != table && body.windows(bytes.len()).any(|part| part == bytes))
            })?;
        Ok(named.contains(&true))
    }

    /// Whether the set has such an element; false also where the set or its table is missing.
    pub fn has_element(&mut self, set: Set<'_>, key: &Key) -> Result<bool, NetlinkError> {
        let body = element_body(set, key);
        found(self.0.ask(&request("find element", GET_ELEMENT, 0, body)))
    }

    /// Every element of the set. NOENT if the set or its table is missing.
    pub fn elements(&mut self, set: Set<'_>) -> Result<Vec<Key>, NetlinkError> {
        let body = table_body(set.family, set.table).text(ELEMENT_SET, set.name);
        let parts = self.0.get(
            &request("list elements", GET_ELEMENT, DUMP, body),
            read_elements,
        )?;
        Ok(parts.into_iter().flatten().collect())
    }
}

/// Hears of deletions from tables, whoever makes them.
#[derive(Debug)]
pub struct Watch(OwnedFd);

impl Watch {
    /// Starts to listen; what happened before is not told.
    pub fn open() -> Result<Self, Errno> {
        open_listener(netlink::NETFILTER, GROUP).map(Self)
    }

    /// Waits until something is deleted from a table called `table`, of any family, or until more
    /// happened than could be told. What is still there must then be looked up.
    pub fn wait(&self, table: &str) -> Result<(), Errno> {
        let mut room = vec![0; 64 << 10];
        loop {
            let mut datagram = match receive(&self.0, &mut room) {
                Ok(datagram) => datagram,
                Err(Errno::NOBUFS | Errno::MSGSIZE) => return Ok(()),
                Err(errno) => return Err(errno),
            };
            while let Some(message) = split_message(&mut datagram) {
                let deletes = matches!(
                    message.kind ^ (SUBSYSTEM << 8),
                    DELETE_TABLE | DELETE_CHAIN | DELETE_RULE | DELETE_SET | DELETE_ELEMENT
                );
                let of = attribute(message.body, FIXED, TABLE).map(text);
                if deletes && of.as_deref() == Some(table) {
                    return Ok(());
                }
            }
        }
    }
}

fn found(result: Result<(), NetlinkError>) -> Result<bool, NetlinkError> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.errno == Errno::NOENT => Ok(false),
        Err(error) => Err(error),
    }
}

fn change_request(change: &Change<'_>) -> Request {
    match *change {
        Change::Add(set, key) => {
            request("add element", NEW_ELEMENT, CREATE, element_body(set, key))
        }
        Change::Remove(set, key) => {
            request("remove element", DELETE_ELEMENT, 0, element_body(set, key))
        }
        Change::DeleteTable(family, table) => {
            request("delete table", DELETE_TABLE, 0, table_body(family, table))
        }
    }
}

fn request(operation: &'static str, kind: u16, flags: u16, body: Body) -> Request {
    Request::new(operation, (SUBSYSTEM << 8) | kind, flags, body)
}

fn table_body(family: Family, table: &str) -> Body {
    let family = match family {
        Family::Inet => 1,
        Family::Bridge => 7,
    };
    Body::default().bytes(&[family, 0, 0, 0]).text(TABLE, table)
}

fn element_body(set: Set<'_>, key: &Key) -> Body {
    let value = Body::default().attribute(DATA_VALUE, &key.0);
    let item = Body::default().nested(ELEMENT_KEY, value);
    let list = Body::default().nested(LIST_ITEM, item);
    table_body(set.family, set.table)
        .text(ELEMENT_SET, set.name)
        .nested(ELEMENT_LIST, list)
}

fn read_forward_chain(body: &[u8]) -> Option<ForwardChain> {
    let hook = attribute(body, FIXED, CHAIN_HOOK)?;
    let forwards = attribute(hook, 0, HOOK_NUMBER)? == FORWARD;
    (forwards && IPV4_FAMILIES.contains(body.first()?)).then_some(ForwardChain {
        table: text(attribute(body, FIXED, TABLE)?),
        name: text(attribute(body, FIXED, CHAIN_NAME)?),
        drops: attribute(body, FIXED, CHAIN_POLICY) == Some(&DROP),
    })
}

fn read_elements(body: &[u8]) -> Option<Vec<Key>> {
    let list = attribute(body, FIXED, ELEMENT_LIST).unwrap_or(&[]);
    attributes(list, 0)
        .map(|(_, item)| {
            let value = attribute(attribute(item, 0, ELEMENT_KEY)?, 0, DATA_VALUE)?;
            Some(Key(value.to_vec()))
        })
        .collect()
}
