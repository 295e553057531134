//! Undoing: what was done is taken back in reverse, whatever of it fails.

use banger_priv::Refusal;

use crate::refusal::refuse;

type Step<'a> = (String, Box<dyn FnOnce() -> Result<(), Refusal> + 'a>);

/// The inverses of what was done so far.
#[derive(Default)]
pub(crate) struct Undo<'a>(Vec<Step<'a>>);

impl<'a> Undo<'a> {
    /// Remembers how to take back what was just done; `what` says it, as "delete link tap-0".
    pub(crate) fn push(
        &mut self,
        what: impl Into<String>,
        inverse: impl FnOnce() -> Result<(), Refusal> + 'a,
    ) {
        self.0.push((what.into(), Box::new(inverse)));
    }

    /// Takes everything back, the latest first. Gives the cause, with what could not be undone.
    fn run(self, cause: Refusal) -> Refusal {
        let mut message = cause.message;
        for (what, inverse) in self.0.into_iter().rev() {
            if let Err(error) = inverse() {
                message = format!("{message}; not undone: {what}: {}", error.message);
            }
        }
        refuse(cause.kind, message)
    }
}

/// Does `work`, which pushes an inverse after each of its steps; if it fails, runs them.
pub(crate) fn attempt<'a, T>(
    work: impl FnOnce(&mut Undo<'a>) -> Result<T, Refusal>,
) -> Result<T, Refusal> {
    let mut undo = Undo::default();
    work(&mut undo).map_err(|cause| undo.run(cause))
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_priv::RefusalKind;
    use std::cell::RefCell;

    #[test]
    fn everything_is_undone_in_reverse_and_what_is_not_is_told() {
        let log = RefCell::new(Vec::new());
        let result: Result<(), Refusal> = attempt(|undo| {
            for step in 1..=3 {
                let log = &log;
                undo.push(format!("step {step}"), move || {
                    log.borrow_mut().push(step);
                    if step == 2 {
                        return Err(refuse(RefusalKind::Failed, "stuck"));
                    }
                    Ok(())
                });
            }
            Err(refuse(RefusalKind::Limit, "step four"))
        });
        let refusal = result.unwrap_err();
        assert_eq!(*log.borrow(), [3, 2, 1]);
        assert_eq!(refusal.kind, RefusalKind::Limit);
        assert_eq!(refusal.message, "step four; not undone: step 2: stuck");
    }

    #[test]
    fn nothing_is_undone_after_success() {
        let result = attempt(|undo| {
            undo.push("nothing", || Err(refuse(RefusalKind::Failed, "ran")));
            Ok(7)
        });
        assert_eq!(result, Ok(7));
    }
}
