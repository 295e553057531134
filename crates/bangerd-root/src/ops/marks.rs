//! What tells our links from everybody else's: the alias that the helper puts on them, which
//! takes as much privilege to forge as the helper has.

use banger_ids::{VmId, VmRef};
use banger_priv::{Refusal, RefusalKind};
use banger_sys::netlink::{Link, Links};

use crate::refusal::{failed, refuse};

/// The alias of the bridge and of the dummy link that is always one of its ports.
pub(crate) const BRIDGE: &str = "banger:bridge";
const TAP: &str = "banger:banger-";

/// The alias of a VM's tap.
pub(crate) fn of_tap(vm: &VmRef) -> String {
    format!("banger:{}", vm.mark())
}

/// The VM whose tap this link is.
pub(crate) fn vm_of(link: &Link) -> Option<VmRef> {
    let mark = link.alias.as_deref()?.strip_prefix(TAP)?;
    let (id, generation) = mark.rsplit_once('-')?;
    let vm = VmRef {
        id: VmId::parse(id).ok()?,
        generation: generation.parse().ok()?,
    };
    let is_tap = link.kind.as_deref() == Some("tun") && link.name == vm.tap();
    (is_tap && link.alias.as_deref() == Some(&of_tap(&vm))).then_some(vm)
}

/// The tap of this VM and generation, if it stands. A link of its name that is not it is refused.
pub(crate) fn find_tap(links: &mut Links, vm: &VmRef) -> Result<Option<Link>, Refusal> {
    let name = vm.tap();
    let found = links
        .find(&name)
        .map_err(|error| failed(format!("find {name}"), &error))?;
    match found {
        Some(link) if vm_of(&link).as_ref() != Some(vm) => {
            let message = format!("use {name}: it is not the tap that was made for {vm}");
            Err(refuse(RefusalKind::Foreign, message))
        }
        found => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(name: &str, kind: &str, alias: &str) -> Link {
        Link {
            index: 7,
            name: name.to_owned(),
            kind: Some(kind.to_owned()),
            alias: Some(alias.to_owned()),
            master: None,
            mac: None,
            is_up: true,
            has_carrier: true,
            forwards_ipv4: false,
            port: None,
        }
    }

    #[test]
    fn remove_tap_knows_its_own_by_mark_name_and_kind_together() {
        let vm = VmRef {
            id: VmId::from_bits(7),
            generation: 12,
        };
        let mark = "banger:banger-vm-00000007-12";
        assert_eq!(of_tap(&vm), mark);
        assert_eq!(vm_of(&link("tap-00000007", "tun", mark)), Some(vm));
        for (name, kind, alias) in [
            ("tap-00000008", "tun", mark),
            ("tap-00000007", "veth", mark),
            ("tap-00000007", "tun", ""),
            ("tap-00000007", "tun", "banger:bridge"),
            ("tap-00000007", "tun", "banger:banger-vm-00000007-"),
            ("tap-00000007", "tun", "banger:banger-vm-00000007-+12"),
            ("tap-00000007", "tun", "banger:banger-vm-00000007-012"),
            (
                "tap-00000007",
                "tun",
                "banger:banger-vm-00000007-4294967296",
            ),
            ("tap-00000007", "tun", "x banger:banger-vm-00000007-12"),
            ("tap-00000007", "tun", "banger:banger-vm-00000007-12 "),
        ] {
            assert_eq!(
                vm_of(&link(name, kind, alias)),
                None,
                "{name} {kind} {alias}"
            );
        }
    }
}
