//! The end of the root helper's connection that asks: one request, one answer, within a limit.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use banger_ipc::{Channel, IpcError, Peer};
use banger_priv::{Answer, Refusal, Reply, Request};

/// How long a frame may take from its first byte to its last.
const FRAME_LIMIT: Duration = Duration::from_secs(5);

/// Why a request was not carried out, or why it is not known whether it was.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there, or not for us. Nothing was asked.
    #[error("connect to the helper at {path:?}")]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The process that listens is not root's. Nothing was asked.
    #[error("trust the helper: it runs as uid {uid}, not as root")]
    Foreign {
        /// Whose it is.
        uid: u32,
    },
    /// The request could not be sent whole.
    #[error("ask the helper")]
    Unsent(#[source] io::Error),
    /// The connection ended before the answer. Whether it was carried out is not known.
    #[error("hear the helper's answer")]
    Lost(#[source] io::Error),
    /// No answer within the limit. Whether it was carried out is not known.
    #[error("hear the helper's answer: it took too long")]
    TimedOut,
    /// The answer is none that this version understands.
    #[error("understand the helper's answer: {0}")]
    Strange(String),
    /// The helper refused; nothing of it is left.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// A connection to the helper.
#[derive(Debug)]
pub struct Client {
    channel: Channel,
}

impl Client {
    /// Connects to the helper at `path`, which must be root's.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let unreachable = |source| ClientError::Unreachable {
            path: path.to_owned(),
            source,
        };
        let stream = UnixStream::connect(path).map_err(unreachable)?;
        let peer = Peer::of(&stream).map_err(|errno| unreachable(errno.into()))?;
        if peer.uid != 0 {
            return Err(ClientError::Foreign { uid: peer.uid });
        }
        Ok(Self::over(stream.into()))
    }

    /// A client on a connection whose other end the caller has seen to.
    pub fn over(socket: OwnedFd) -> Self {
        Self {
            channel: socket.into(),
        }
    }

    /// Has one request carried out, with the descriptors that go with it; waits at most `limit`
    /// for the beginning of the answer. After any error but [`ClientError::Refused`] the
    /// connection is of no more use: the next answer could be the last request's.
    pub fn call(
        &self,
        request: &Request,
        files: &[OwnedFd],
        limit: Duration,
    ) -> Result<(Reply, Vec<OwnedFd>), ClientError> {
        let body =
            serde_json::to_vec(request).map_err(|error| ClientError::Unsent(error.into()))?;
        let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        self.channel
            .send(&body, &files, FRAME_LIMIT)
            .map_err(|error| ClientError::Unsent(io::Error::other(error)))?;
        let frame = match self.channel.receive(Some(limit), FRAME_LIMIT) {
            Ok(Some(frame)) => frame,
            Ok(None) => {
                let ended = io::ErrorKind::UnexpectedEof;
                return Err(ClientError::Lost(io::Error::new(ended, "it hung up")));
            }
            Err(IpcError::TimedOut(_)) => return Err(ClientError::TimedOut),
            Err(error) => return Err(ClientError::Lost(io::Error::other(error))),
        };
        match serde_json::from_slice(&frame.body) {
            Ok(Answer::Done(reply)) => Ok((reply, frame.fds)),
            Ok(Answer::Refused(refusal)) => Err(refusal.into()),
            Err(error) => Err(ClientError::Strange(error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_priv::RefusalKind;
    use std::thread;

    const SOON: Duration = Duration::from_secs(10);

    /// A client whose helper answers once, with `body` and so many descriptors.
    fn answered(body: Vec<u8>, fds: usize) -> (Client, thread::JoinHandle<Request>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let helper = thread::spawn(move || {
            let channel = Channel::from(OwnedFd::from(theirs));
            let frame = channel.receive(Some(SOON), SOON).unwrap().unwrap();
            let sent: Vec<_> = frame
                .fds
                .iter()
                .map(AsFd::as_fd)
                .cycle()
                .take(fds)
                .collect();
            if !body.is_empty() {
                channel.send(&body, &sent, SOON).unwrap();
            }
            serde_json::from_slice(&frame.body).unwrap()
        });
        (Client::over(ours.into()), helper)
    }

    fn file() -> OwnedFd {
        UnixStream::pair().unwrap().0.into()
    }

    #[test]
    fn a_request_is_answered_with_its_descriptors() {
        let body = serde_json::to_vec(&Answer::Done(Reply::Nothing)).unwrap();
        let (client, helper) = answered(body, 3);
        let (reply, fds) = client.call(&Request::Status {}, &[file()], SOON).unwrap();
        assert_eq!((reply, fds.len()), (Reply::Nothing, 3));
        assert_eq!(helper.join().unwrap(), Request::Status {});
    }

    #[test]
    fn s8_a_helper_that_is_not_roots_is_sent_nothing() {
        use std::io::Read;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("root.sock");
        let (sent, listening) = std::sync::mpsc::channel();
        let impostor = thread::spawn({
            let path = path.clone();
            move || {
                // As somebody else, in this thread alone; it is already, where the test is not root's.
                let nobody = rustix::process::Uid::from_raw(1000);
                let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
                rustix::thread::set_thread_res_uid(nobody, nobody, nobody).ok();
                // Whose it is is taken down when it begins to listen.
                rustix::net::listen(&listener, 4).unwrap();
                sent.send(()).unwrap();
                let mut told = Vec::new();
                listener.accept().unwrap().0.read_to_end(&mut told).unwrap();
                told
            }
        });
        listening.recv().unwrap();
        let refused = Client::connect(&path).unwrap_err();
        assert!(
            matches!(refused, ClientError::Foreign { uid } if uid != 0),
            "{refused:?}"
        );
        assert_eq!(impostor.join().unwrap(), b"");
    }

    #[test]
    fn refusals_strange_answers_and_silence_are_told_apart() {
        let refusal = Refusal {
            kind: RefusalKind::Busy,
            message: "in use".into(),
        };
        let body = serde_json::to_vec(&Answer::Refused(refusal)).unwrap();
        let call = |body: Vec<u8>| {
            let (client, helper) = answered(body, 0);
            let error = client.call(&Request::Status {}, &[], SOON).unwrap_err();
            helper.join().unwrap();
            error
        };
        let told = call(body);
        assert!(matches!(&told, ClientError::Refused(why) if why.kind == RefusalKind::Busy));
        assert_eq!(told.to_string(), "in use");
        assert!(matches!(call(b"{}".to_vec()), ClientError::Strange(_)));
        assert!(matches!(call(Vec::new()), ClientError::Lost(_)));

        let (ours, theirs) = UnixStream::pair().unwrap();
        let client = Client::over(ours.into());
        let soon = Duration::from_millis(10);
        let error = client.call(&Request::Status {}, &[], soon).unwrap_err();
        assert!(matches!(error, ClientError::TimedOut));
        drop(theirs);
        let error = client.call(&Request::Status {}, &[], SOON).unwrap_err();
        assert!(matches!(error, ClientError::Unsent(_)), "{error:?}");
        let error = Client::connect(Path::new("/nonexistent")).unwrap_err();
        assert!(matches!(error, ClientError::Unreachable { .. }));
    }
}
