//! What the helper is and made. Looking is also when rules that somebody flushed are restored.

use banger_priv::{OtherChain, Others, Refusal, Reply, Status, VmStatus};

use crate::helper::{Helper, Outcome, done};
use crate::log;
use crate::ops::rules::{self, TABLE};
use crate::ops::vmm;
use crate::policy::{MAX_CHAIN_NAME, MAX_CHAINS};
use crate::refusal::failed;
use banger_sys::nft::ForwardChain;

/// Tells it.
pub(crate) fn status(helper: &Helper) -> Outcome {
    let restored = rules::restore(helper, &mut helper.network());
    if let Err(refusal) = restored {
        log::line(&refusal.message);
    }
    let entries = helper.ledger().entries();
    let vms = entries.into_iter().map(|entry| VmStatus {
        is_running: vmm::is_running(helper, &entry),
        address: entry.tap.map(|tap| tap.address),
        has_snapshot: entry.snapshot.is_some(),
        vm: entry.vm,
    });
    let others = others(helper);
    if let Err(refusal) = &others {
        log::line(&refusal.message);
    }
    done(Reply::Status(Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        vms: vms.collect(),
        others: others.ok(),
    }))
}

/// The chains of others that guests' packets pass.
fn others(helper: &Helper) -> Result<Others, Refusal> {
    let wrong = |error| failed("list the chains of others", &error);
    let mut nft = rules::open()?;
    let chains = nft.forward_chains().map_err(wrong)?;
    let theirs = chains.into_iter().filter(|chain| chain.table != TABLE);
    let chains: Vec<_> = theirs.take(MAX_CHAINS).map(shown).collect();
    let bridge = helper.ledger().bridge().cloned();
    let name_bridge = match &bridge {
        // Every rule of the host is read for that.
        Some(bridge) if !chains.is_empty() => {
            nft.is_named_beside(TABLE, bridge.name.as_str().as_bytes())
        }
        _ => Ok(false),
    };
    Ok(Others {
        chains,
        name_bridge: name_bridge.map_err(wrong)?,
    })
}

fn shown(chain: ForwardChain) -> OtherChain {
    let plain = |name: String| {
        let plain = name.chars().filter(char::is_ascii_graphic);
        plain.take(MAX_CHAIN_NAME).collect()
    };
    OtherChain {
        table: plain(chain.table),
        name: plain(chain.name),
        drops: chain.drops,
    }
}
