//! Whose daemon it is, with everything of it below one directory.

use crate::disks::STORE;
use e2e::{Outcome, finish, send};
use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

#[derive(Debug)]
pub(crate) struct Owner {
    home: PathBuf,
    dist: PathBuf,
}

impl Owner {
    /// Somebody with a home there.
    pub(crate) fn at(home: &Path) -> Self {
        let dist = PathBuf::from(std::env::var_os("BANGER_E2E_DIST").unwrap());
        let home = home.to_owned();
        Self { home, dist }
    }

    /// The same, at first: with a store of its own, but in it the contents of the one that is there
    /// already, which are too large to be written and replayed.
    pub(crate) fn settle(home: &Path) -> Self {
        let store = Path::new(STORE);
        let data = home.join("data");
        let mut private = fs::DirBuilder::new();
        private.mode(0o700).create(&data).unwrap();
        private.create(data.join("images")).unwrap();
        let config = std::env::var("BANGER_E2E_CONFIG").unwrap();
        fs::write(home.join("config.toml"), config).unwrap();
        fs::copy(store.join("index.json"), data.join("index.json")).unwrap();
        symlink(store.join("kernels"), data.join("kernels")).unwrap();
        for image in fs::read_dir(store.join("images")).unwrap() {
            let image = image.unwrap();
            symlink(image.path(), data.join("images").join(image.file_name())).unwrap();
        }
        Self::at(home)
    }

    pub(crate) fn home(&self) -> &Path {
        &self.home
    }

    /// Asks the daemon that runs, without a process of its own: those take long where the host is
    /// emulated.
    pub(crate) fn ask(&self, method: &str, path: &str, body: &str) -> Result<Value, String> {
        let mut socket = UnixStream::connect(self.home.join("run/bangerd.sock"))
            .map_err(|error| format!("connect: {error}"))?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: bangerd\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        socket
            .write_all(format!("{head}{body}").as_bytes())
            .unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        if !head.starts_with("HTTP/1.1 2") {
            return Err(format!("{method} {path}: {body}"));
        }
        serde_json::from_str(body).map_err(|error| format!("{method} {path}: {error}: {answer}"))
    }

    /// Runs `banger ARGS`.
    pub(crate) fn run(&self, args: &[&str]) -> Outcome {
        let banger = self.dist.join("banger");
        finish(self.command(banger.to_str().unwrap()).args(args))
    }

    /// Runs `banger ARGS`, which must succeed, and returns what it says.
    #[track_caller]
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let outcome = self.run(args);
        assert_eq!(outcome.code, 0, "banger {args:?}: {outcome:#?}");
        outcome.stdout
    }

    #[track_caller]
    pub(crate) fn shell(&self, script: &str) {
        let outcome = finish(self.command("sh").args(["-ec", script]));
        assert_eq!(outcome.code, 0, "{outcome:#?}");
    }

    /// Kills the daemon, if one runs, and what it has started.
    pub(crate) fn kill(&self) {
        for pid in self.processes() {
            send(pid, rustix::process::Signal::KILL);
        }
    }

    /// The daemon and the VMMs of this home: what runs with it as `BANGER_HOME`, or in it.
    fn processes(&self) -> Vec<u32> {
        let ours = format!("BANGER_HOME={}", self.home.display());
        let of_ours = |pid: u32| {
            let proc = PathBuf::from(format!("/proc/{pid}"));
            let environ = fs::read(proc.join("environ")).unwrap_or_default();
            let is_named = environ
                .split(|byte| *byte == 0)
                .any(|entry| entry == ours.as_bytes());
            is_named || fs::read_link(proc.join("cwd")).is_ok_and(|cwd| cwd.starts_with(&self.home))
        };
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(|pid| of_ours(*pid)).collect()
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
            .env("HOME", &self.home)
            .env("BANGER_HOME", &self.home)
            .env("LANG", "C.UTF-8")
            .current_dir(&self.home)
            .stdin(Stdio::null());
        command
    }
}

impl Drop for Owner {
    /// Whatever runs would keep the disk busy.
    fn drop(&mut self) {
        self.kill();
    }
}
