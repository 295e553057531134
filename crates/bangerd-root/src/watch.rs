//! Hears when somebody deletes from our rules, and has them restored at once.

use std::sync::Arc;

use banger_sys::nft::Watch;

use crate::helper::Helper;
use crate::log;
use crate::ops::rules;
use crate::refusal::chain;

/// Starts to listen, in a thread of its own.
pub(crate) fn start(helper: &Arc<Helper>) -> std::io::Result<()> {
    let watch = Watch::open()?;
    let helper = Arc::clone(helper);
    let listen = move || {
        loop {
            if let Err(errno) = watch.wait(rules::TABLE) {
                log::line(&format!("stopped to watch the rules: {}", chain(&errno)));
                return;
            }
            let restored = rules::restore(&helper, &mut helper.network());
            if let Err(refusal) = restored {
                log::line(&refusal.message);
            }
        }
    };
    std::thread::Builder::new()
        .name("watch".to_owned())
        .spawn(listen)
        .map(drop)
}
