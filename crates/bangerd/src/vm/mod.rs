//! One VM's life.
//!
//! ```text
//!               create                       start
//!  (nothing) ───────────▶ Created ──────────────────────────▶ Starting ◀───────────┐
//!                                                              │  │  │             │
//!                              agent answers                   │  │  │             │ start
//!                 ┌────────────────────────────────────────────┘  │  │             │
//!                 ▼               stop or kill while it boots,    │  │ VMM ended,   │
//!              Running            or nobody waits for it any more │  │ deadline,    │
//!               │ │ │ └──────────────┐                            │  │ a step failed│
//!          stop │ │ │ guest powers   │ VMM or guest ends          │  │             │
//!               │ │ │ off, or kill   │ by itself                  │  │             │
//!               ▼ │ └──────────▶ Stopped ◀───────────────────────┘  │             │
//!          Stopping ────────────▶   ▲ │    Crashed ◀────────────────┘             │
//!             (forced at the deadline)└──────┴────────────────────────────────────┘
//!
//!  any state ── remove (a VM that runs: only with force) ──▶ Removing ──▶ (nothing)
//! ```
//!
//! Only the VM's [`driver`] moves it. Everybody else has a [`handle::VmHandle`]: commands go
//! in by a channel, what is true comes out by a watch. [`plan`] decides, [`launch`] does,
//! [`record`] is what is stored, [`view`] what is shown. A [`lease::VmLease`] ties a VM to the
//! life of whoever holds it.
//!
//! A VM that ended by itself may be started again by its [`policy`], and is stopped when its time
//! is up; both count by [`moment`]s. Whether its VMM answers is found by its [`pulse`], which is
//! shown beside the state and changes nothing. One that fills the host's disk is ended by
//! [`reserve`]. What happens is told to [`crate::events`].

pub(crate) mod boot;
mod change;
pub(crate) mod create;
pub(crate) mod driver;
pub(crate) mod ending;
mod fsck;
pub(crate) mod handle;
pub(crate) mod launch;
pub(crate) mod lease;
pub(crate) mod moment;
pub(crate) mod place;
pub(crate) mod plan;
pub(crate) mod policy;
pub(crate) mod pulse;
pub(crate) mod record;
pub(crate) mod registry;
mod removal;
pub(crate) mod reserve;
mod room;
pub(crate) mod snapshot;
pub(crate) mod stats;
mod stop;
mod telling;
pub(crate) mod view;
