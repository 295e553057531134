//! Byte streams joined to a host's stream: a TCP port of the guest, or the image's own sshd.

use std::ffi::CString;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use banger_guest::frame::{FrameError, Kind, chunks};
use banger_guest::request::{Failure, FailureCode, Reply, Ssh};
use banger_sys::spawn::{Program, Session};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, read, write};
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType, shutdown, socketpair};

use crate::reaper::Process;
use crate::serve::{Agent, io_failure};
use crate::stream::{Stream, StreamError, failure};

/// Where keys and configuration live: in memory, readable by root alone.
const DIR: &str = "/run/banger/ssh";

const SSHD: [&str; 2] = ["/usr/sbin/sshd", "/usr/bin/sshd"];

/// How much may wait in either direction before the other side is left unread.
const HIGH: usize = 256 * 1024;

const DIAL_DEADLINE: Duration = Duration::from_secs(10);

const CONFIG: &str = "HostKey /run/banger/ssh/host_key
AuthorizedKeysFile /run/banger/ssh/authorized_keys
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
UsePAM no
UseDNS no
X11Forwarding no
PrintMotd no
Subsystem sftp internal-sftp
AcceptEnv LANG LC_*
LogLevel ERROR
";

/// Connects to a TCP port of the guest's loopback.
pub fn dial(port: u16) -> Result<OwnedFd, Failure> {
    let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
    let stream = TcpStream::connect_timeout(&address.into(), DIAL_DEADLINE).map_err(|error| {
        let code = match error.kind() {
            std::io::ErrorKind::ConnectionRefused => FailureCode::NotFound,
            _ => FailureCode::Io,
        };
        failure(
            code,
            format!("connect to port {port} in the guest: {error}"),
        )
    })?;
    // Small writes are keystrokes as often as not; without this they only come later.
    drop(stream.set_nodelay(true));
    Ok(stream.into())
}

/// Runs the image's sshd for this one stream.
pub fn serve(agent: &Agent, stream: Stream, request: &Ssh) -> Result<(), StreamError> {
    match start(agent, request) {
        Ok((mut sshd, socket)) => {
            stream.reply(&Reply::default())?;
            let joined = join(stream, socket);
            // Its connection is gone, so it ends by itself; what it started stays, as with any sshd.
            sshd.wait();
            joined
        }
        Err(failure) => stream.fail(&failure),
    }
}

fn start(agent: &Agent, request: &Ssh) -> Result<(Process, OwnedFd), Failure> {
    let sshd = SSHD
        .into_iter()
        .find(|path| Path::new(path).is_file())
        .ok_or_else(|| {
            failure(
                FailureCode::Unsupported,
                "the image has no sshd (install openssh-server in it)",
            )
        })?;
    write_files(request).map_err(|error| io_failure(&format!("write {DIR}"), &error))?;
    let errno_failure = |errno: Errno| io_failure("start sshd", &errno.into());
    let (ours, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(errno_failure)?;
    let null = std::fs::File::options()
        .write(true)
        .open("/dev/null")
        .map_err(|error| io_failure("open /dev/null", &error))?;
    let text = |text: String| {
        CString::new(text).map_err(|_| failure(FailureCode::Invalid, "a path has a NUL byte"))
    };
    let path = text(sshd.to_owned())?;
    let argv = [
        path.clone(),
        c"-i".to_owned(),
        c"-f".to_owned(),
        text(format!("{DIR}/sshd_config"))?,
    ];
    let process = agent
        .reaper
        .spawn(&Program {
            path: &path,
            argv: &argv,
            env: &[text(format!("PATH={}", crate::exec::DEFAULT_PATH))?],
            cwd: c"/",
            stdio: [theirs.as_fd(), theirs.as_fd(), null.as_fd()],
            identity: None,
            session: Session::New,
            resets_oom_score: !agent.is_init,
        })
        .map_err(|error| {
            failure(
                FailureCode::NotExecutable,
                format!("start {sshd}: {}", crate::log::chain(&error)),
            )
        })?;
    Ok((process, ours))
}

/// Each file is written beside its place and moved there, so that a connection that comes
/// at the same time reads the old one or the new one.
fn write_files(request: &Ssh) -> std::io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    builder.mode(0o755).create("/run/sshd")?;
    builder.mode(0o755).create("/run/banger")?;
    builder.mode(0o700).create(DIR)?;
    let mut keys = request.authorized_keys.join("\n");
    keys.push('\n');
    // sshd reads the keys as the user who logs in: they are public, the directory need only be passed.
    std::fs::set_permissions(DIR, std::fs::Permissions::from_mode(0o711))?;
    write_file("host_key", 0o600, &request.host_key)?;
    write_file("authorized_keys", 0o644, &keys)?;
    write_file("sshd_config", 0o600, CONFIG)
}

fn write_file(name: &str, mode: u32, text: &str) -> std::io::Result<()> {
    let unique = rustix::thread::gettid().as_raw_nonzero();
    let (beside, place) = (format!("{DIR}/.{name}.{unique}"), format!("{DIR}/{name}"));
    let mut file = std::fs::File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&beside)?;
    file.write_all(text.as_bytes())?;
    std::fs::rename(beside, place)
}

/// One direction's bytes on their way.
#[derive(Default)]
struct Lane {
    bytes: Vec<u8>,
    /// Nothing more will come.
    is_over: bool,
    /// The end was handed on.
    is_done: bool,
}

/// Joins a host's stream (`Data` frames) to a socket until both directions have ended or the host leaves.
pub fn join(mut stream: Stream, socket: OwnedFd) -> Result<(), StreamError> {
    rustix::io::ioctl_fionbio(&socket, true)?;
    rustix::io::ioctl_fionbio(stream.as_fd(), true)?;
    let mut decoder = stream.take_decoder();
    let (mut inward, mut outward) = (Lane::default(), Lane::default());
    let mut buffer = vec![0; 64 * 1024];
    loop {
        while let Some(frame) = decoder.next_frame()? {
            match frame.kind {
                Kind::Data if frame.payload.is_empty() => inward.is_over = true,
                Kind::Data => inward.bytes.extend_from_slice(&frame.payload),
                kind => return Err(FrameError::Unexpected(kind).into()),
            }
        }
        push(&socket, &mut inward)?;
        if inward.is_over && inward.bytes.is_empty() && !inward.is_done {
            inward.is_done = true;
            // The other side may have closed already.
            let _ = shutdown(&socket, Shutdown::Write);
        }
        push(stream.as_fd(), &mut outward)?;
        if outward.is_over && outward.bytes.is_empty() {
            return Ok(());
        }
        let host = flags(inward.bytes.len() < HIGH && !inward.is_over, &outward);
        let guest = flags(outward.bytes.len() < HIGH && !outward.is_over, &inward);
        let mut fds = [
            PollFd::from_borrowed_fd(stream.as_fd(), host | PollFlags::RDHUP),
            PollFd::new(&socket, guest),
        ];
        // A socket that has hung up is not asked unless it is to be read: it would not let us wait.
        let count = if guest.is_empty() { 1 } else { 2 };
        rustix::io::retry_on_intr(|| poll(&mut fds[..count], None))?;
        let (host, guest) = (fds[0].revents(), fds[1].revents());
        if host.intersects(PollFlags::HUP | PollFlags::RDHUP | PollFlags::ERR) {
            return Err(StreamError::Left);
        }
        if host.contains(PollFlags::IN) {
            let count = read_some(stream.as_fd(), &mut buffer)?.unwrap_or(0);
            decoder.feed(&buffer[..count]);
        }
        if count == 2 && guest.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            match read_some(&socket, &mut buffer) {
                Ok(Some(0)) | Err(_) => {
                    outward.is_over = true;
                    buffer_end(&mut outward.bytes);
                }
                Ok(Some(count)) => {
                    for frame in chunks(Kind::Data, &buffer[..count]) {
                        frame.encode_into(&mut outward.bytes);
                    }
                }
                Ok(None) => {}
            }
        }
    }
}

fn buffer_end(bytes: &mut Vec<u8>) {
    bytes.extend_from_slice(&banger_guest::frame::head(Kind::Data, 0));
}

fn flags(wants_input: bool, output: &Lane) -> PollFlags {
    let mut flags = PollFlags::empty();
    flags.set(PollFlags::IN, wants_input);
    flags.set(PollFlags::OUT, !output.bytes.is_empty());
    flags
}

fn read_some(fd: impl AsFd, buffer: &mut [u8]) -> Result<Option<usize>, Errno> {
    match read(fd, buffer) {
        Ok(count) => Ok(Some(count)),
        Err(Errno::AGAIN | Errno::INTR) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn push(fd: impl AsFd, lane: &mut Lane) -> Result<(), Errno> {
    if lane.bytes.is_empty() {
        return Ok(());
    }
    match write(fd, &lane.bytes) {
        Ok(count) => {
            lane.bytes.drain(..count);
            Ok(())
        }
        Err(Errno::AGAIN | Errno::INTR) => Ok(()),
        // Nobody reads that direction any more; the other one may still have something to say.
        Err(Errno::PIPE | Errno::CONNRESET) => {
            lane.bytes.clear();
            lane.is_over = true;
            Ok(())
        }
        Err(errno) => Err(errno),
    }
}
