//! systemd: a scope for a VM's processes, and what became of it.

use crate::error::printable;
use crate::message::{Message, Object};
use crate::wire::Writer;
use crate::{Bus, BusError};

const SERVICE: &str = "org.freedesktop.systemd1";
const MANAGER: Object<'_> = Object {
    service: SERVICE,
    path: "/org/freedesktop/systemd1",
    interface: "org.freedesktop.systemd1.Manager",
};
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";
const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";

/// A scope to start. It vanishes by itself with its last process, failed or not.
#[derive(Debug, Clone)]
pub struct ScopeSpec<'a> {
    /// Its name, as `banger-vm-0123abcd.scope`.
    pub name: &'a str,
    /// One line of printable ASCII for people.
    pub description: &'a str,
    /// The slice it is in, made if need be, as `banger.slice`.
    pub slice: &'a str,
    /// The process to begin with. It must be a child of the caller that is not yet waited for:
    /// else its number may already be another's.
    pub pid: u32,
    /// Memory in bytes, page cache included; swap is not used at all.
    pub memory_max: u64,
    /// Processes and threads.
    pub tasks_max: u64,
    /// CPU time per second in microseconds: 1,000,000 is one CPU.
    pub cpu_quota_us: u64,
    /// The devices that may be used beside the harmless ones (null, zero, full, random,
    /// urandom, tty, ptmx, pts), for which everything is allowed.
    pub devices: &'a [DeviceRule],
}

/// A device, by its numbers: what a path leads to may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceRule {
    /// Character or block.
    pub kind: DeviceKind,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Whether a node may be made as well, as the jailer does in its jail.
    pub may_mknod: bool,
}

/// The two kinds of devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// As `/dev/kvm`.
    Char,
    /// As a dm device.
    Block,
}

impl Bus {
    /// Starts the scope and returns once systemd has moved the process into it.
    ///
    /// Refuses with [`BusError::UnitExists`] where a unit of the name is loaded. After
    /// [`BusError::TimedOut`] the scope may yet come to be: end the process, and it goes. But a process
    /// that ends just while systemd moves it leaves a scope that was never anything but empty, of
    /// whose end systemd does not hear: [`Self::stop_unit`].
    pub fn start_scope(&mut self, spec: &ScopeSpec<'_>) -> Result<(), BusError> {
        let body = spec.encode()?;
        let result = self.watch("JobRemoved", "arg2", spec.name, |bus| {
            let started = bus.manager("StartTransientUnit", "ssa(sv)a(sa(sv))", body)?;
            let job = started.body("o")?.str()?;
            bus.wait(&started.sender, "JobRemoved", |signal| {
                let mut body = signal.body("uoss")?;
                body.u32()?;
                let (ended, _unit, result) = (body.str()?, body.str()?, body.str()?);
                Ok((ended == job).then(|| printable(result)))
            })
        });
        let unit = spec.name.to_owned();
        match result {
            Ok(result) if result == "done" => Ok(()),
            Ok(result) => Err(BusError::JobFailed { unit, result }),
            Err(BusError::Refused { name, .. }) if name == UNIT_EXISTS => {
                Err(BusError::UnitExists(unit))
            }
            Err(error) => Err(error),
        }
    }

    /// The control group of a scope, as `/banger.slice/banger-vm-0123abcd.scope`: `None` where no such
    /// unit is loaded, empty where it is loaded but not running.
    pub fn unit_cgroup(&mut self, name: &str) -> Result<Option<String>, BusError> {
        let Some(unit) = self.find_unit(name)? else {
            return Ok(None);
        };
        let scope = Object {
            service: SERVICE,
            path: unit.body("o")?.str()?,
            interface: "org.freedesktop.systemd1.Scope",
        };
        let value = self.property(&scope, "ControlGroup")?;
        Ok(Some(value.body("v")?.variant("s")?.str()?.to_owned()))
    }

    /// Waits until no unit of this name is loaded. A scope outlives its last process by a moment,
    /// in which the name is still taken.
    pub fn wait_unit_gone(&mut self, name: &str) -> Result<(), BusError> {
        check_unit(name)?;
        self.watch("UnitRemoved", "arg0", name, |bus| {
            // systemd says what it unloads only while somebody is subscribed.
            bus.manager("Subscribe", "", Writer::default())?;
            let gone = match bus.find_unit(name) {
                Ok(Some(unit)) => bus.wait(&unit.sender, "UnitRemoved", |signal| {
                    Ok((signal.body("so")?.str()? == name).then_some(()))
                }),
                other => other.map(drop),
            };
            bus.begin();
            let unsubscribed = bus.manager("Unsubscribe", "", Writer::default());
            gone.and(unsubscribed.map(drop))
        })
    }

    /// Stops the unit, if it is loaded. What runs in it is ended.
    pub fn stop_unit(&mut self, name: &str) -> Result<(), BusError> {
        check_unit(name)?;
        self.begin();
        let body = Writer::default().str(name).str("replace");
        unless_missing(self.manager("StopUnit", "ss", body)).map(drop)
    }

    /// What systemd answers of the unit, if it is loaded.
    pub(crate) fn find_unit(&mut self, name: &str) -> Result<Option<Message>, BusError> {
        check_unit(name)?;
        self.begin();
        unless_missing(self.manager("GetUnit", "s", Writer::default().str(name)))
    }

    fn manager(
        &mut self,
        member: &'static str,
        signature: &'static str,
        body: Writer,
    ) -> Result<Message, BusError> {
        self.call(&MANAGER, member, signature, body)
    }

    /// Runs `work` while systemd's signals `member` whose `argument` is `unit`, and no others, are sent to us.
    fn watch<T>(
        &mut self,
        member: &str,
        argument: &str,
        unit: &str,
        work: impl FnOnce(&mut Self) -> Result<T, BusError>,
    ) -> Result<T, BusError> {
        self.begin();
        let Object {
            path, interface, ..
        } = MANAGER;
        let rule = format!(
            "type='signal',sender='{SERVICE}',path='{path}',interface='{interface}',\
             member='{member}',{argument}='{unit}'"
        );
        self.ask_bus("AddMatch", &rule)?;
        let done = work(self);
        self.begin();
        let stopped = self.ask_bus("RemoveMatch", &rule);
        done.and_then(|done| stopped.map(|()| done))
    }

    /// The reply that holds a property's value as a variant.
    pub(crate) fn property(
        &mut self,
        object: &Object<'_>,
        property: &str,
    ) -> Result<Message, BusError> {
        let body = Writer::default().str(object.interface).str(property);
        let properties = Object {
            interface: "org.freedesktop.DBus.Properties",
            ..*object
        };
        self.call(&properties, "Get", "ss", body)
    }
}

impl ScopeSpec<'_> {
    /// The arguments of `StartTransientUnit`, once all are fit to be sent.
    fn encode(&self) -> Result<Writer, BusError> {
        check_unit(self.name)?;
        check_unit(self.slice)?;
        let is_line = self.description.bytes().all(|b| matches!(b, b' '..=b'~'));
        if !is_line || self.description.len() > 200 {
            return Err(BusError::unfit("description", self.description));
        }
        let texts = [
            ("Description", self.description),
            ("Slice", self.slice),
            ("CollectMode", "inactive-or-failed"),
            ("DevicePolicy", "closed"),
        ];
        let numbers = [
            ("MemoryMax", self.memory_max),
            ("MemorySwapMax", 0),
            ("TasksMax", self.tasks_max),
            ("CPUQuotaPerSecUSec", self.cpu_quota_us),
        ];
        let unit = Writer::default().str(self.name).str("fail");
        let unit = unit.array(8, |list| {
            let list = texts.iter().fold(list, |list, (name, value)| {
                list.align(8).str(name).signature("s").str(value)
            });
            let list = numbers.iter().fold(list, |list, (name, value)| {
                list.align(8).str(name).signature("t").u64(*value)
            });
            let list = list.align(8).str("IOAccounting").signature("b").u32(1);
            let list = list.align(8).str("DeviceAllow").signature("a(ss)");
            let list = list.array(8, |rules| {
                self.devices.iter().fold(rules, |rules, rule| {
                    rules.align(8).str(&rule.path()).str(rule.access())
                })
            });
            let list = list.align(8).str("PIDs").signature("au");
            list.array(4, |pids| pids.u32(self.pid))
        });
        // No auxiliary units.
        Ok(unit.array(8, |none| none))
    }
}

impl DeviceRule {
    /// The path that systemd takes for the numbers themselves: it need not exist.
    fn path(self) -> String {
        let kind = match self.kind {
            DeviceKind::Char => "char",
            DeviceKind::Block => "block",
        };
        format!("/dev/{kind}/{}:{}", self.major, self.minor)
    }

    fn access(self) -> &'static str {
        if self.may_mknod { "rwm" } else { "rw" }
    }
}

/// Takes a scope's or slice's name in characters that mean nothing to systemd or to a match rule.
fn check_unit(name: &str) -> Result<(), BusError> {
    let stem = name.strip_suffix(".scope");
    let stem = stem.or_else(|| name.strip_suffix(".slice"));
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    match stem {
        Some(stem) if (1..=200).contains(&stem.len()) && stem.bytes().all(is_plain) => Ok(()),
        _ => Err(BusError::unfit("unit name", name)),
    }
}

/// What was found, or `None` where systemd knows no such unit.
fn unless_missing(found: Result<Message, BusError>) -> Result<Option<Message>, BusError> {
    match found {
        Err(BusError::Refused { name, .. }) if name == NO_SUCH_UNIT => Ok(None),
        found => found.map(Some),
    }
}
