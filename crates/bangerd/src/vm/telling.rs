//! What a driver lets the world know: the truth, by a watch, and what happens, by events.

use super::driver::Driver;
use super::pulse::{Memory, Pulse};
use banger_api::{EventKind, VmState};
use banger_engine::VmmExit;
use std::sync::Arc;

impl Driver {
    /// Says what is true.
    pub(super) fn publish(&mut self) {
        if self.machine.is_some() && self.busy.is_none() {
            self.busy = Some(self.daemon.activity().begin());
        }
        let machine = self.machine.clone();
        self.truth.send_modify(|now| {
            now.record = Arc::new(self.record.clone());
            now.machine = machine.clone();
        });
        if machine.is_none() {
            self.pulse = None;
        } else if self.pulse.is_none() {
            let begin = |machine| Pulse::of(&self.daemon, machine, self.truth.subscribe());
            self.pulse = machine.map(begin);
        }
        let found = self.pulse.as_ref().map(Pulse::found);
        self.truth.send_modify(|now| now.pulse = found);
        if self.told != self.record.state {
            self.told = self.record.state;
            self.tell_state();
        }
    }

    /// Tells the world of the state.
    fn tell_state(&self) {
        let event = match self.record.state {
            VmState::Starting => EventKind::Started,
            VmState::Running => EventKind::Running,
            VmState::Stopping => EventKind::Stopping,
            VmState::Stopped => EventKind::Stopped,
            VmState::Crashed => EventKind::Crashed,
            VmState::Created | VmState::Removing => return,
        };
        let exit = self.record.exit.as_ref();
        let why = exit.map(|exit| (exit.reason.as_str(), exit.detail.as_str()));
        self.tell(event, why);
    }

    /// Tells the world that something happened to the VM.
    pub(super) fn tell(&self, event: EventKind, why: Option<(&str, &str)>) {
        self.daemon.events().tell(event, &self.record, why);
    }

    /// How the host's memory was when the VMM ended so.
    pub(super) async fn memory_at(&self, exit: &VmmExit) -> Memory {
        match &self.pulse {
            Some(pulse) => pulse.memory(exit).await,
            None => Memory::Unknown,
        }
    }
}
