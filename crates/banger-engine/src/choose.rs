//! Which engine runs a VM, and why: pure, given what this host has.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::firecracker::{Firecracker, NO_NETWORK, NO_USER_NETWORK};
use crate::host::Host;
use crate::qemu::{NO_TAP, Qemu};
use crate::{Engine, EngineError, Kvm, NetworkMode};

/// The engines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EngineKind {
    /// QEMU's `qemu-system-x86_64`.
    Qemu,
    /// Firecracker.
    Firecracker,
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Qemu => "qemu",
            Self::Firecracker => "firecracker",
        })
    }
}

/// What executes the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Accel {
    /// The CPU, through KVM.
    Kvm,
    /// QEMU's emulation, several times slower.
    Tcg,
}

/// What is asked of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// The engine; the best that fits when left out.
    pub engine: Option<EngineKind>,
    /// What executes the guest's instructions; the best that works when left out.
    pub accel: Option<Accel>,
    /// The network that the VM needs.
    pub network: NetworkMode,
    /// Whether Firecracker runs in jails ([`crate::Place::jail`]) that somebody makes.
    pub jailed: bool,
}

/// What was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) kind: EngineKind,
    pub(crate) accel: Accel,
    /// Why it is not what everybody wants, if it is not; a part of a line for people.
    pub(crate) why: String,
}

/// What keeps a VM from running under Firecracker.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Obstacle {
    reason: String,
    fix: String,
}

impl Host {
    /// Chooses the engine for a VM: Firecracker where it can run it, else QEMU.
    pub fn choose(&self, wish: &Wish) -> Result<Arc<dyn Engine>, EngineError> {
        let choice = decide(self, wish)?;
        Ok(match choice.kind {
            EngineKind::Qemu => {
                Arc::new(Qemu::new(self.qemu.clone()?, choice.accel, choice.why)) as Arc<dyn Engine>
            }
            EngineKind::Firecracker if wish.jailed => {
                let found = self.firecracker.as_ref().ok();
                Arc::new(Firecracker::jailed(found.map(|found| found.version)))
            }
            EngineKind::Firecracker => Arc::new(Firecracker::new(self.firecracker.clone()?)),
        })
    }
}

pub(crate) fn decide(host: &Host, wish: &Wish) -> Result<Choice, EngineError> {
    let obstacle = firecracker_obstacle(host, wish);
    match (wish.engine, obstacle) {
        (None | Some(EngineKind::Firecracker), None) => Ok(Choice {
            kind: EngineKind::Firecracker,
            accel: Accel::Kvm,
            why: String::new(),
        }),
        (Some(EngineKind::Firecracker), Some(obstacle)) => Err(EngineError::Unfit {
            engine: EngineKind::Firecracker,
            reason: obstacle.reason,
            fix: obstacle.fix,
        }),
        (_, Some(obstacle)) if wish.network == NetworkMode::Nat => Err(EngineError::Unfit {
            engine: EngineKind::Firecracker,
            reason: obstacle.reason,
            fix: obstacle.fix,
        }),
        (Some(EngineKind::Qemu), None) if wish.network == NetworkMode::Nat => {
            Err(EngineError::Unfit {
                engine: EngineKind::Qemu,
                reason: NO_TAP.into(),
                fix: "use --network user, or leave engine.prefer out of the configuration".into(),
            })
        }
        (Some(EngineKind::Qemu), _) => qemu(host, wish, "asked for"),
        (None, Some(_)) => match &host.firecracker {
            Ok(found) => {
                let why = format!("not Firecracker {}: {}", found.version, no_network(wish));
                qemu(host, wish, &why)
            }
            Err(_) => qemu(host, wish, ""),
        },
    }
}

/// The first reason why this VM cannot run under Firecracker here; those that no other
/// configuration of the VM would help come first.
fn firecracker_obstacle(host: &Host, wish: &Wish) -> Option<Obstacle> {
    let obstacle = |reason: &str, fix: &str| {
        Some(Obstacle {
            reason: reason.to_owned(),
            fix: fix.to_owned(),
        })
    };
    if wish.network == NetworkMode::Nat && !wish.jailed {
        return obstacle(
            "a network by NAT needs root, and banger has none here",
            "sudo banger system install, or use --network user",
        );
    }
    if let Err(missing) = &host.firecracker
        && !wish.jailed
    {
        return obstacle(&missing.reason, &missing.fix);
    }
    let kvm = if wish.jailed {
        &host.kvm_of_jails
    } else {
        &host.kvm
    };
    if let Kvm::Unusable { reason, fix } = kvm {
        let fix = fix.as_deref().unwrap_or("set engine.prefer to \"qemu\"");
        return obstacle(reason, fix);
    }
    if wish.accel == Some(Accel::Tcg) {
        return obstacle(
            "it does not emulate",
            "leave engine.accel out of the configuration, or engine.prefer",
        );
    }
    match wish.network {
        NetworkMode::None | NetworkMode::Nat => None,
        NetworkMode::User => obstacle(
            no_network(wish),
            "use --network none, or leave engine.prefer out of the configuration",
        ),
    }
}

/// Why a VM with user-mode networking does not run under Firecracker.
fn no_network(wish: &Wish) -> &'static str {
    if wish.jailed {
        NO_USER_NETWORK
    } else {
        NO_NETWORK
    }
}

/// QEMU. `why` is told with KVM, where nothing else explains why it is not Firecracker.
fn qemu(host: &Host, wish: &Wish, why: &str) -> Result<Choice, EngineError> {
    if let Err(missing) = &host.qemu {
        let mut missing = missing.clone();
        let unnetworked = Wish {
            network: NetworkMode::None,
            ..*wish
        };
        if wish.engine.is_none() && firecracker_obstacle(host, &unnetworked).is_none() {
            missing
                .fix
                .push_str(", or use --network none to run under Firecracker");
        }
        return Err(missing.into());
    }
    let (accel, why) = match (wish.accel, &host.kvm) {
        (Some(Accel::Tcg), _) => (Accel::Tcg, "asked for"),
        (Some(Accel::Kvm), Kvm::Unusable { reason, fix }) => {
            return Err(EngineError::Kvm {
                reason: reason.clone(),
                fix: fix.clone(),
            });
        }
        (None | Some(Accel::Kvm), Kvm::Works) => (Accel::Kvm, why),
        (None, Kvm::Unusable { reason, .. }) => (Accel::Tcg, reason.as_str()),
    };
    Ok(Choice {
        kind: EngineKind::Qemu,
        accel,
        why: why.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::{Found, Missing, Version};

    const PLAIN: Wish = Wish {
        engine: None,
        accel: None,
        network: NetworkMode::None,
        jailed: false,
    };
    const NETWORKED: Wish = Wish {
        network: NetworkMode::User,
        ..PLAIN
    };

    fn found(program: &str, version: Version) -> Found {
        Found {
            path: format!("/usr/bin/{program}").into(),
            version,
        }
    }

    fn host() -> Host {
        Host {
            qemu: Ok(found("qemu-system-x86_64", Version::new(7, 2, 22))),
            firecracker: Ok(found("firecracker", Version::new(1, 12, 1))),
            kvm: Kvm::Works,
            kvm_of_jails: Kvm::Works,
        }
    }

    fn missing(program: &'static str) -> Missing {
        Missing {
            program,
            reason: "it is not installed".into(),
            fix: format!("install {program}"),
        }
    }

    fn without_kvm() -> Host {
        Host {
            kvm: Kvm::Unusable {
                reason: "the CPU shows neither vmx nor svm".into(),
                fix: None,
            },
            ..host()
        }
    }

    fn choice(host: &Host, wish: Wish) -> (EngineKind, Accel, String) {
        let choice = decide(host, &wish).unwrap();
        let engine = host.choose(&wish).unwrap();
        assert_eq!(engine.kind(), choice.kind);
        (choice.kind, choice.accel, engine.describe())
    }

    #[test]
    fn firecracker_is_taken_where_it_can_run_the_vm_and_qemu_says_why_else() {
        let (kind, accel, text) = choice(&host(), PLAIN);
        assert_eq!((kind, accel), (EngineKind::Firecracker, Accel::Kvm));
        assert_eq!(text, "Firecracker 1.12.1, KVM");

        let (kind, accel, text) = choice(&host(), NETWORKED);
        assert_eq!((kind, accel), (EngineKind::Qemu, Accel::Kvm));
        assert_eq!(
            text,
            "QEMU 7.2.22, KVM (not Firecracker 1.12.1: it has no network without root)"
        );

        let none = Host {
            firecracker: Err(missing("firecracker")),
            ..host()
        };
        let (kind, accel, text) = choice(&none, PLAIN);
        assert_eq!((kind, accel), (EngineKind::Qemu, Accel::Kvm));
        assert_eq!(text, "QEMU 7.2.22, KVM");

        for wish in [PLAIN, NETWORKED] {
            let (kind, accel, text) = choice(&without_kvm(), wish);
            assert_eq!((kind, accel), (EngineKind::Qemu, Accel::Tcg));
            assert_eq!(
                text,
                "QEMU 7.2.22, emulation (TCG): the CPU shows neither vmx nor svm"
            );
        }
        let emulated = Wish {
            accel: Some(Accel::Tcg),
            ..PLAIN
        };
        let (kind, accel, _) = choice(&host(), emulated);
        assert_eq!((kind, accel), (EngineKind::Qemu, Accel::Tcg));
    }

    #[test]
    fn a_preferred_engine_is_taken_or_the_reason_and_the_way_out_are_told() {
        let prefer = |engine, wish| Wish {
            engine: Some(engine),
            ..wish
        };
        let wish = prefer(EngineKind::Qemu, PLAIN);
        assert_eq!(choice(&host(), wish).0, EngineKind::Qemu);
        let wish = prefer(EngineKind::Firecracker, PLAIN);
        assert_eq!(choice(&host(), wish).0, EngineKind::Firecracker);

        let refused = |host: &Host, wish: Wish| {
            let error = decide(host, &prefer(EngineKind::Firecracker, wish)).unwrap_err();
            let fix = error.fix().unwrap().to_owned();
            (error.to_string(), fix)
        };
        let (error, fix) = refused(&host(), NETWORKED);
        assert_eq!(
            error,
            "run a VM under firecracker: it has no network without root"
        );
        assert!(fix.contains("--network none"), "{fix}");
        let (error, _) = refused(&without_kvm(), PLAIN);
        assert!(error.contains("neither vmx nor svm"), "{error}");
        let none = Host {
            firecracker: Err(missing("firecracker")),
            ..host()
        };
        assert_eq!(refused(&none, NETWORKED).1, "install firecracker");
        let emulated = Wish {
            accel: Some(Accel::Tcg),
            ..PLAIN
        };
        assert!(refused(&host(), emulated).0.contains("emulate"));
    }

    #[test]
    fn without_qemu_only_what_firecracker_can_run_is_run() {
        let none = Host {
            qemu: Err(missing("qemu-system-x86_64")),
            ..host()
        };
        assert_eq!(choice(&none, PLAIN).0, EngineKind::Firecracker);
        let error = decide(&none, &NETWORKED).unwrap_err();
        assert_eq!(
            error.fix(),
            Some("install qemu-system-x86_64, or use --network none to run under Firecracker")
        );
        let wish = Wish {
            engine: Some(EngineKind::Qemu),
            ..NETWORKED
        };
        let error = decide(&none, &wish).unwrap_err();
        assert_eq!(error.fix(), Some("install qemu-system-x86_64"));
    }

    #[test]
    fn nat_is_firecrackers_in_a_jail_or_nobodys() {
        let nat = Wish {
            network: NetworkMode::Nat,
            jailed: true,
            ..PLAIN
        };
        // Our own rights to KVM and our own Firecracker do not count.
        let bare = Host {
            firecracker: Err(missing("firecracker")),
            ..without_kvm()
        };
        for host in [&host(), &bare] {
            assert_eq!(choice(host, nat).0, EngineKind::Firecracker);
        }
        assert_eq!(choice(&host(), nat).2, "Firecracker 1.12.1, KVM, jailed");
        let jailed_user = Wish {
            network: NetworkMode::User,
            ..nat
        };
        let (kind, _, text) = choice(&host(), jailed_user);
        assert_eq!(kind, EngineKind::Qemu);
        assert!(text.contains("no user-mode network"), "{text}");

        let hidden = Host {
            kvm_of_jails: without_kvm().kvm,
            ..host()
        };
        for (host, wish, word) in [
            (&hidden, nat, "svm"),
            (
                &host(),
                Wish {
                    jailed: false,
                    ..nat
                },
                "needs root",
            ),
            (
                &host(),
                Wish {
                    engine: Some(EngineKind::Qemu),
                    ..nat
                },
                "tap",
            ),
        ] {
            let error = decide(host, &wish).unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
            assert!(error.fix().is_some());
        }
    }

    #[test]
    fn kvm_is_never_forced_where_it_does_not_work() {
        let forced = Wish {
            accel: Some(Accel::Kvm),
            ..NETWORKED
        };
        assert!(decide(&without_kvm(), &forced).is_err());
        assert_eq!(choice(&host(), forced).1, Accel::Kvm);
    }
}
