//! Which calls are refused, and how: spread over all that an operation does, for each error.

use e2e::refusal::Fault;
use e2e::syscall::Call;
use nix::errno::Errno::{self, EINTR, EIO, EMFILE, ENOMEM, ENOSPC};

/// The errors, and whether also those last: a disk stays full for a while.
const ERRORS: [(Errno, bool); 7] = [
    (ENOSPC, true),
    (EIO, false),
    (EMFILE, false),
    (ENOMEM, false),
    (ENOSPC, false),
    (EINTR, false),
    (EMFILE, true),
];

/// At least so many points, an equal share to each error, over the calls that were seen.
pub(crate) fn spread(seen: &[Call], points: usize) -> Vec<Fault> {
    let sites = sites(seen);
    let share = points.div_ceil(ERRORS.len()).max(1);
    let mut faults = Vec::new();
    for (turn, (errno, lasts)) in ERRORS.into_iter().enumerate() {
        let fitting: Vec<&(Call, usize)> = sites
            .iter()
            .filter(|(call, _)| call.errors().contains(&errno))
            .collect();
        let count = share.min(fitting.len());
        for number in 0..count {
            // Between the first and the last, at another place for each error.
            let at = (fitting.len() * (2 * number + 1) / (2 * count) + turn) % fitting.len();
            let (call, nth) = fitting[at].clone();
            faults.push(Fault {
                call,
                nth,
                errno,
                lasts,
            });
        }
    }
    faults
}

/// The different calls in the order in which they came first: the first of each kind, and the last.
fn sites(seen: &[Call]) -> Vec<(Call, usize)> {
    let mut sites: Vec<(Call, usize)> = Vec::new();
    for (at, call) in seen.iter().enumerate() {
        let nth = seen[..=at].iter().filter(|other| *other == call).count();
        let is_last = !seen[at + 1..].contains(call);
        if nth == 1 || is_last {
            sites.push((call.clone(), nth));
        }
    }
    sites
}

/// The error's name, with a plus if it lasts.
pub(crate) fn error_of(fault: &Fault) -> String {
    let more = if fault.lasts { "+" } else { "" };
    format!("{:?}{more}", fault.errno)
}

/// The fault in words.
pub(crate) fn told(fault: &Fault) -> String {
    let Call { name, what, .. } = &fault.call;
    format!("{} at {name} {what} #{}", error_of(fault), fault.nth)
}
