//! The one place that runs other programs: by absolute path and argument list, with an empty
//! environment, in a process group of their own that ends with the work.

use crate::ImagesError;
use crate::progress::ProgressSink;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Where programs are looked for, and the `PATH` that they get.
pub(crate) const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// How much of what a program says is kept for its error message.
const KEPT: usize = 16 << 10;
/// The longest line that is looked at.
const LINE: usize = 4 << 10;
/// How soon a cancellation is seen while a program is silent.
const TICK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// A program to run.
#[derive(Debug)]
pub(crate) struct Job<'a> {
    /// What it is run for, as `update the package lists`.
    pub(crate) what: &'static str,
    /// The program's name.
    pub(crate) program: &'static str,
    /// The Debian package that has it.
    pub(crate) package: &'static str,
    /// Its arguments.
    pub(crate) args: Vec<OsString>,
    /// Variables beside PATH, LC_ALL and HOME.
    pub(crate) env: Vec<(&'static str, OsString)>,
    /// Its HOME.
    pub(crate) home: &'a Path,
    /// Its working directory.
    pub(crate) directory: PathBuf,
    /// How long it may take to end when asked to, before it is killed.
    pub(crate) grace: Duration,
}

/// A line of output, and where it came from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Line<'a> {
    Stdout(&'a str),
    Stderr(&'a str),
}

/// The absolute path of a program.
pub(crate) fn find_tool(
    program: &'static str,
    package: &'static str,
) -> Result<PathBuf, ImagesError> {
    PATH.split(':')
        .map(|directory| Path::new(directory).join(program))
        .find(|path| {
            fs::metadata(path)
                .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
        })
        .ok_or(ImagesError::MissingTool {
            tool: program,
            package,
        })
}

impl Job<'_> {
    /// Runs it to its end. Lines of its output go to `on_line` as they come; with `stdout`, its
    /// standard output goes to that file instead. When `sink` cancels, or this fails in any way,
    /// the whole process group is gone on return.
    pub(crate) fn run(
        self,
        stdout: Option<File>,
        sink: &dyn ProgressSink,
        on_line: &mut dyn FnMut(Line<'_>),
    ) -> Result<(), ImagesError> {
        let path = find_tool(self.program, self.package)?;
        let fail = |source| ImagesError::io("run", &path)(source);
        let mut command = dying_with_us(&path);
        command
            .args(&self.args)
            .env_clear()
            .env("PATH", PATH)
            .env("LC_ALL", "C.UTF-8")
            .env("HOME", self.home)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .stdout(stdout.map_or_else(Stdio::piped, Stdio::from))
            .stderr(Stdio::piped())
            .process_group(0);
        let mut group = Group::new(command.spawn().map_err(fail)?).map_err(fail)?;
        // Without this the parent's copy of a file given as standard output would stay open.
        drop(command);
        let mut said = Said::default();
        let cancelled = group
            .follow(sink, &mut |line| {
                said.note(line);
                on_line(line);
            })
            .map_err(fail)?;
        if cancelled {
            group.end(self.grace).map_err(fail)?;
            return Err(ImagesError::Cancelled {
                what: self.what.to_owned(),
            });
        }
        let status = group.reap().map_err(fail)?;
        if status.success() {
            return Ok(());
        }
        Err(ImagesError::Command {
            what: self.what,
            program: self.program,
            status: status.to_string(),
            stderr: said.text(),
        })
    }
}

/// A command that is killed when this process dies, where util-linux can arrange it; else it
/// would work on for nobody.
fn dying_with_us(program: &Path) -> Command {
    match find_tool("setpriv", "util-linux") {
        Ok(setpriv) => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", "KILL", "--"]).arg(program);
            command
        }
        Err(_) => Command::new(program),
    }
}

/// What a program said last, for its error message.
#[derive(Default)]
struct Said(Vec<u8>);

impl Said {
    fn note(&mut self, line: Line<'_>) {
        let text = match line {
            Line::Stderr(text) => text,
            // apt and dpkg put some of their errors there.
            Line::Stdout(text) if text.starts_with("E:") || text.starts_with("W:") => text,
            Line::Stdout(_) => return,
        };
        self.0.extend(text.bytes());
        self.0.push(b'\n');
        let surplus = self.0.len().saturating_sub(KEPT);
        self.0.drain(..surplus);
    }

    /// The last lines, errors first if there are any, control characters replaced.
    fn text(&self) -> String {
        let all = String::from_utf8_lossy(&self.0);
        let errors: Vec<&str> = all.lines().filter(|line| line.starts_with("E:")).collect();
        let lines: Vec<&str> = all.lines().collect();
        let shown = if errors.is_empty() { &lines } else { &errors };
        let text = shown[shown.len().saturating_sub(8)..].join("; ");
        text.chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect()
    }
}

/// A running program and its process group; dropping it kills the group.
struct Group {
    child: Child,
    pid: Pid,
    pidfd: OwnedFd,
    is_reaped: bool,
}

impl Group {
    fn new(child: Child) -> io::Result<Self> {
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::other("the kernel gave no process id"))?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        Ok(Self {
            child,
            pid,
            pidfd,
            is_reaped: false,
        })
    }

    /// Passes lines on until the program ends (`false`) or the sink cancels (`true`).
    fn follow(
        &mut self,
        sink: &dyn ProgressSink,
        on_line: &mut dyn FnMut(Line<'_>),
    ) -> io::Result<bool> {
        let mut out = self.child.stdout.take().map(|pipe| Lines::new(pipe.into()));
        let mut err = self.child.stderr.take().map(|pipe| Lines::new(pipe.into()));
        loop {
            if sink.is_cancelled() {
                return Ok(true);
            }
            let ready = {
                let mut fds = vec![PollFd::new(&self.pidfd, PollFlags::IN)];
                for pipe in [&out, &err].into_iter().flatten() {
                    fds.push(PollFd::new(&pipe.pipe, PollFlags::IN));
                }
                match poll(&mut fds, Some(&TICK)) {
                    Ok(_) | Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
                !fds[0].revents().is_empty()
            };
            let mut is_open = false;
            for (pipe, is_stdout) in [(&mut out, true), (&mut err, false)] {
                let Some(lines) = pipe else { continue };
                let mut wrap = |text: &str| {
                    on_line(if is_stdout {
                        Line::Stdout(text)
                    } else {
                        Line::Stderr(text)
                    });
                };
                if lines.read(&mut wrap)? {
                    is_open = true;
                } else {
                    *pipe = None;
                }
            }
            // A grandchild may hold the pipes for ever; what counts is the program itself.
            if ready || (!is_open && out.is_none() && err.is_none() && self.wait_briefly()?) {
                for (pipe, is_stdout) in [(&mut out, true), (&mut err, false)] {
                    if let Some(lines) = pipe {
                        lines.finish(&mut |text| {
                            on_line(if is_stdout {
                                Line::Stdout(text)
                            } else {
                                Line::Stderr(text)
                            });
                        });
                    }
                }
                return Ok(false);
            }
        }
    }

    /// Whether the program ends within a tick, for when it has closed its output.
    fn wait_briefly(&self) -> io::Result<bool> {
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        match poll(&mut fds, Some(&TICK)) {
            Ok(count) => Ok(count > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Asks the group to end, and kills it if it has not within `grace`.
    fn end(&mut self, grace: Duration) -> io::Result<ExitStatus> {
        // The group may be gone already; then there is nothing to ask.
        kill_process_group(self.pid, Signal::TERM).unwrap_or_default();
        let deadline = Instant::now() + grace;
        while Instant::now() < deadline {
            if self.wait_briefly()? {
                break;
            }
        }
        self.reap()
    }

    /// Collects the program's status, after killing whatever of its group is left. The program
    /// itself is not waited for before it is dead, so the group's id cannot be another's.
    fn reap(&mut self) -> io::Result<ExitStatus> {
        kill_process_group(self.pid, Signal::KILL).unwrap_or_default();
        self.is_reaped = true;
        self.child.wait()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.is_reaped {
            // Nobody to tell: the caller already has the error that led here.
            drop(self.reap());
        }
    }
}

/// A pipe cut into lines.
struct Lines {
    pipe: File,
    pending: Vec<u8>,
}

impl Lines {
    fn new(pipe: OwnedFd) -> Self {
        Self {
            pipe: File::from(pipe),
            pending: Vec::new(),
        }
    }

    fn is_ready(&self) -> io::Result<bool> {
        let fd = self.pipe.as_fd();
        let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        match poll(&mut fds, Some(&now)) {
            Ok(count) => Ok(count > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Passes on the lines that have come; `false` at the end of the pipe.
    fn read(&mut self, on_line: &mut dyn FnMut(&str)) -> io::Result<bool> {
        if !self.is_ready()? {
            return Ok(true);
        }
        let mut buffer = [0_u8; 8192];
        let count = self.pipe.read(&mut buffer)?;
        for byte in &buffer[..count] {
            if matches!(byte, b'\n' | b'\r') {
                self.pass(on_line);
            } else if self.pending.len() < LINE {
                self.pending.push(*byte);
            }
        }
        if count == 0 {
            self.pass(on_line);
        }
        Ok(count > 0)
    }

    /// Passes on what is in the pipe now, without waiting for more.
    fn finish(&mut self, on_line: &mut dyn FnMut(&str)) {
        while matches!(self.is_ready(), Ok(true)) && matches!(self.read(on_line), Ok(true)) {}
        self.pass(on_line);
    }

    fn pass(&mut self, on_line: &mut dyn FnMut(&str)) {
        if !self.pending.is_empty() {
            on_line(&String::from_utf8_lossy(&self.pending));
            self.pending.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NoProgress;
    use crate::progress::Progress;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn job<'a>(program: &'static str, args: &[&str], home: &'a Path) -> Job<'a> {
        Job {
            what: "test",
            program,
            package: "none",
            args: args.iter().map(OsString::from).collect(),
            env: Vec::new(),
            home,
            directory: home.to_owned(),
            grace: Duration::from_secs(5),
        }
    }

    #[test]
    fn environment_is_empty_but_for_three() {
        let home = tempfile::tempdir().unwrap();
        let mut names = Vec::new();
        job("env", &[], home.path())
            .run(None, &NoProgress, &mut |line| {
                if let Line::Stdout(text) = line {
                    names.push(text.split('=').next().unwrap().to_owned());
                }
            })
            .unwrap();
        names.sort();
        assert_eq!(names, ["HOME", "LC_ALL", "PATH"]);
    }

    #[test]
    fn failure_says_what_the_program_said() {
        let home = tempfile::tempdir().unwrap();
        let error = job("ls", &["/nonexistent-entry"], home.path())
            .run(None, &NoProgress, &mut |_| {})
            .unwrap_err();
        assert!(error.to_string().contains("nonexistent-entry"), "{error}");
    }

    #[test]
    fn missing_tool_names_its_package() {
        let error = find_tool("no-such-tool", "some-package").unwrap_err();
        assert_eq!(error.hint().unwrap(), "sudo apt-get install some-package");
    }

    struct CancelAtFirstLine(AtomicBool);

    impl ProgressSink for CancelAtFirstLine {
        fn report(&self, _: Progress) {}
        fn is_cancelled(&self) -> bool {
            self.0.load(Ordering::SeqCst)
        }
    }

    #[test]
    fn cancelling_ends_the_whole_group() {
        let home = tempfile::tempdir().unwrap();
        let sink = CancelAtFirstLine(AtomicBool::new(false));
        let mut orphan = None;
        // A grandchild that outlives its parent unless the group is killed.
        let error = job("bash", &["-c", "sleep 1000 & echo $!; wait"], home.path())
            .run(None, &sink, &mut |line| {
                if let Line::Stdout(text) = line {
                    let pid = Pid::from_raw(text.parse().unwrap()).unwrap();
                    orphan = Some(pidfd_open(pid, PidfdFlags::empty()).unwrap());
                    sink.0.store(true, Ordering::SeqCst);
                }
            })
            .unwrap_err();
        assert!(matches!(error, ImagesError::Cancelled { .. }), "{error}");
        let orphan = orphan.unwrap();
        let deadline = Timespec {
            tv_sec: 5,
            tv_nsec: 0,
        };
        let mut fds = [PollFd::new(&orphan, PollFlags::IN)];
        assert_eq!(
            poll(&mut fds, Some(&deadline)).unwrap(),
            1,
            "the orphan lives"
        );
    }
}
