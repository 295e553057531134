//! The rules for guests' packets: tables of text, loaded by `nft`, and sets whose elements follow
//! from the ledger, by netlink.
//!
//! What is in force is looked at again by whoever depends on it; where it is not as it must be
//! and cannot be restored, the bridge is set down.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use banger_ids::guest_mac;
use banger_priv::{Refusal, RefusalKind};
use banger_sys::dirs::{read_capped, verified_program};
use banger_sys::netlink::{Links, NetlinkError};
use banger_sys::nft::{Change, Family, Key, Nft, Set};
use banger_sys::pidfd::{Ended, reap, wait_ended};
use banger_sys::spawn::{Exact, Program, Session, spawn_exact};
use rustix::fs::{MemfdFlags, SeekFrom, memfd_create, seek};
use rustix::io::Errno;
use rustix::process::{Signal, pidfd_send_signal};

use crate::entry::{BridgeEntry, VmEntry};
use crate::helper::{Helper, Network};
use crate::log;
use crate::policy::{MAX_NFT_TEXT, NFT_LIMIT, NFT_PATHS};
use crate::refusal::{failed, refuse};

/// Every rule; the bridge's name goes in the place of `@BRIDGE@`.
const RULES: &str = include_str!("../../../banger-sys/data/rules.nft");
/// The name of both tables.
pub(crate) const TABLE: &str = "banger";
const FAMILIES: [Family; 2] = [Family::Inet, Family::Bridge];

const GUESTS: Set<'_> = Set {
    family: Family::Bridge,
    table: TABLE,
    name: "guests",
};
const EGRESS: Set<'_> = inet("egress");
const NAT: Set<'_> = inet("nat");
const UPLINKS: Set<'_> = inet("uplinks");

const fn inet(name: &'static str) -> Set<'static> {
    Set {
        family: Family::Inet,
        table: TABLE,
        name,
    }
}

type Element = (Set<'static>, Key);

/// The elements that bind a VM to its addresses, and let it out.
pub(crate) fn elements_of(entry: &VmEntry) -> Vec<Element> {
    let Some(tap) = &entry.tap else {
        return Vec::new();
    };
    let guest = Key::default()
        .link(&entry.vm.tap())
        .map(|key| key.mac(guest_mac(tap.address)).address(tap.address));
    let mut elements: Vec<Element> = guest.into_iter().map(|key| (GUESTS, key)).collect();
    if tap.has_nat {
        elements.extend(nat_of(tap.address));
    }
    elements
}

/// The elements that let a VM out.
pub(crate) fn nat_of(address: std::net::Ipv4Addr) -> [Element; 2] {
    [EGRESS, NAT].map(|set| (set, Key::default().address(address)))
}

/// The element for a link that was made to forward; `None` if no link can have this name.
pub(crate) fn uplink(name: &str) -> Option<Element> {
    Some((UPLINKS, Key::default().link(name)?))
}

/// Adds elements, all or none.
pub(crate) fn add(elements: &[Element]) -> Result<(), Refusal> {
    let changes = elements.iter().map(|(set, key)| Change::Add(*set, key));
    let changes: Vec<_> = changes.collect();
    apply(&changes).map_err(|error| failed("add to the rules", &error))
}

/// Removes elements; those that are not there are fine.
pub(crate) fn remove(elements: &[Element]) -> Result<(), Refusal> {
    let wrong = |error: NetlinkError| failed("take from the rules", &error);
    let mut nft = open()?;
    let mut changes = Vec::new();
    for (set, key) in elements {
        if nft.has_element(*set, key).map_err(wrong)? {
            changes.push(Change::Remove(*set, key));
        }
    }
    if changes.is_empty() {
        return Ok(());
    }
    nft.apply(&changes).map_err(wrong)
}

/// Whether the tables are as they were loaded.
fn is_loaded(nft: &mut Nft, network: &Network) -> Result<bool, NetlinkError> {
    let Some(wanted) = network.rules else {
        return Ok(false);
    };
    for (family, wanted) in FAMILIES.into_iter().zip(wanted) {
        if !nft.has_table(family, TABLE)? || nft.rule_count(family, TABLE)? != wanted {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Has the tables as they must be and their elements as the ledger has them. Whether anything
/// had to be done for that.
pub(crate) fn enforce(
    helper: &Helper,
    network: &mut Network,
    bridge: &BridgeEntry,
) -> Result<bool, Refusal> {
    let wrong = |error: NetlinkError| failed("look at the rules", &error);
    let mut nft = open()?;
    let is_loaded = is_loaded(&mut nft, network).map_err(wrong)?;
    if !is_loaded {
        network.rules = None;
        load(bridge.name.as_str())?;
    }
    let wanted: Vec<Element> = helper
        .ledger()
        .entries()
        .iter()
        .flat_map(elements_of)
        .chain(bridge.uplinks.iter().filter_map(|name| uplink(name)))
        .collect();
    let mut found = Vec::new();
    for set in [GUESTS, EGRESS, NAT, UPLINKS] {
        let keys = nft.elements(set).map_err(wrong)?;
        found.extend(keys.into_iter().map(|key| (set, key)));
    }
    let stale = found.iter().filter(|element| !wanted.contains(element));
    let missing = wanted.iter().filter(|element| !found.contains(element));
    let changes: Vec<_> = stale
        .map(|(set, key)| Change::Remove(*set, key))
        .chain(missing.map(|(set, key)| Change::Add(*set, key)))
        .collect();
    if !changes.is_empty() {
        let applied = nft.apply(&changes);
        applied.map_err(|error| failed("bring the rules to what is recorded", &error))?;
    }
    if !is_loaded {
        let [inet, bridge] = FAMILIES.map(|family| nft.rule_count(family, TABLE));
        network.rules = Some([inet.map_err(wrong)?, bridge.map_err(wrong)?]);
    }
    Ok(!is_loaded || !changes.is_empty())
}

/// Brings what a request that failed has half changed to what is recorded, before anybody takes it
/// for somebody else's change.
pub(crate) fn settle<T>(
    helper: &Helper,
    network: &mut Network,
    ended: Result<T, Refusal>,
) -> Result<T, Refusal> {
    ended.map_err(|cause| {
        let bridge = helper.ledger().bridge().cloned();
        match bridge.map(|bridge| enforce(helper, network, &bridge)) {
            Some(Err(error)) => {
                let message = format!("{}; and {}", cause.message, error.message);
                refuse(cause.kind, message)
            }
            _ => cause,
        }
    })
}

/// As [`enforce`], for a bridge that stands: what had been lost is told in the log; where it cannot
/// be restored, the bridge is set down, and comes up again with the rules.
pub(crate) fn restore(helper: &Helper, network: &mut Network) -> Result<(), Refusal> {
    let Some(bridge) = helper.ledger().bridge().cloned() else {
        return Ok(());
    };
    let wrong = |error: NetlinkError| failed("look at the rules", &error);
    let mut nft = open()?;
    let was_known = network.rules.is_some();
    // Before they are loaded for the first time, those of an earlier helper are as good.
    let is_lost = if was_known {
        !is_loaded(&mut nft, network).map_err(wrong)?
    } else {
        !(nft.has_table(Family::Inet, TABLE).map_err(wrong)?
            && nft.has_table(Family::Bridge, TABLE).map_err(wrong)?)
    };
    match enforce(helper, network, &bridge) {
        Ok(true) => {
            if was_known {
                log::line("the rules had been changed by somebody else and were restored");
            }
            set_link(bridge.name.as_str(), true)
        }
        Err(cause) if is_lost => {
            set_link(bridge.name.as_str(), false)?;
            let message = format!("{}; {} was set down", cause.message, bridge.name);
            Err(refuse(cause.kind, message))
        }
        result => result.map(drop),
    }
}

/// Sets a link up or down, if it stands.
fn set_link(name: &str, up: bool) -> Result<(), Refusal> {
    let wrong = |error: NetlinkError| failed(format!("set {name} up or down"), &error);
    let mut links = Links::open().map_err(|errno| failed("open netlink", &errno))?;
    match links.find(name).map_err(wrong)? {
        Some(link) if up => links.set_up(link.index).map_err(wrong),
        Some(link) => links.set_down(link.index).map_err(wrong),
        None => Ok(()),
    }
}

/// Deletes both tables; those that are not there are fine. Whether any was.
pub(crate) fn delete(network: &mut Network) -> Result<bool, Refusal> {
    let wrong = |error: NetlinkError| failed("delete the rules", &error);
    let mut nft = open()?;
    network.rules = None;
    let mut changes = Vec::new();
    for family in FAMILIES {
        if nft.has_table(family, TABLE).map_err(wrong)? {
            changes.push(Change::DeleteTable(family, TABLE));
        }
    }
    if !changes.is_empty() {
        nft.apply(&changes).map_err(wrong)?;
    }
    Ok(!changes.is_empty())
}

/// Whether one of the tables is there.
pub(crate) fn exist() -> Result<bool, Refusal> {
    let wrong = |error: NetlinkError| failed("look at the rules", &error);
    let mut nft = open()?;
    for family in FAMILIES {
        if nft.has_table(family, TABLE).map_err(wrong)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Loads every rule in one transaction, by the one program that can read them.
fn load(bridge: &str) -> Result<(), Refusal> {
    let what = "load the rules";
    let kernel = |errno: Errno| failed(what, &errno);
    let image = NFT_PATHS
        .iter()
        .find_map(|path| verified_program(path).ok())
        .ok_or_else(|| {
            let message = format!("{what}: no nft of root's at any of {NFT_PATHS:?}");
            refuse(RefusalKind::Unsupported, message)
        })?;
    let memory = || memfd_create(c"nft", MemfdFlags::CLOEXEC).map_err(kernel);
    let (text, said) = (memory()?, memory()?);
    write_all(&text, RULES.replace("@BRIDGE@", bridge).as_bytes()).map_err(kernel)?;
    seek(&text, SeekFrom::Start(0)).map_err(kernel)?;
    let argv = [c"nft", c"-f", c"-"].map(CString::from);
    let program = Program {
        path: c"/",
        argv: &argv,
        env: &[],
        cwd: c"/",
        stdio: [text.as_fd(), said.as_fd(), said.as_fd()],
        identity: None,
        session: Session::New,
        resets_oom_score: false,
    };
    let exact = Exact {
        image: Some(image.as_fd()),
        fds: &[],
    };
    let child = spawn_exact(&program, exact).map_err(|error| failed(what, &error))?;
    let ended = wait_ended(&child.pidfd, Instant::now().checked_add(NFT_LIMIT));
    if !matches!(ended, Ok(true)) {
        pidfd_send_signal(&child.pidfd, Signal::KILL).map_err(kernel)?;
        reap(&child.pidfd).map_err(|error| failed(what, &error))?;
        let message = format!("{what}: nft took longer than {NFT_LIMIT:?}");
        return Err(refuse(RefusalKind::TimedOut, message));
    }
    match reap(&child.pidfd).map_err(|error| failed(what, &error))? {
        Ended::Exited(0) => Ok(()),
        ended => {
            seek(&said, SeekFrom::Start(0)).map_err(kernel)?;
            let words = read_capped(&said, 1 << 20).map_err(kernel)?;
            let words: String = String::from_utf8_lossy(&words)
                .chars()
                .take(MAX_NFT_TEXT)
                .collect();
            let message = format!("{what}: nft ended as {ended:?}: {words}");
            Err(refuse(RefusalKind::Failed, message))
        }
    }
}

fn write_all(file: &OwnedFd, mut text: &[u8]) -> Result<(), Errno> {
    while !text.is_empty() {
        let written = rustix::io::retry_on_intr(|| rustix::io::write(file, text))?;
        text = text.get(written..).unwrap_or(&[]);
    }
    Ok(())
}

fn apply(changes: &[Change<'_>]) -> Result<(), NetlinkError> {
    let mut nft = Nft::open().map_err(|errno| NetlinkError {
        operation: "open nftables",
        explanation: None,
        errno,
    })?;
    nft.apply(changes)
}

pub(super) fn open() -> Result<Nft, Refusal> {
    Nft::open().map_err(|errno| failed("open nftables", &errno))
}
