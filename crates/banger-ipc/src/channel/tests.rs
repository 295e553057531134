//! Frames, whole and broken.

use super::*;
use proptest::prelude::*;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

const SOON: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(20);

fn pair() -> (Channel, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (Channel::from(OwnedFd::from(ours)), theirs)
}

fn framed(body: &[u8]) -> Vec<u8> {
    [&u32::try_from(body.len()).unwrap().to_be_bytes()[..], body].concat()
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn a_frame_and_its_descriptors_arrive() {
    let (ours, theirs) = pair();
    let theirs = Channel::from(OwnedFd::from(theirs));
    let (reader, mut writer) = std::io::pipe().unwrap();
    ours.send(b"first", &[reader.as_fd()], LONG).unwrap();
    ours.send(b"second", &[], LONG).unwrap();
    drop(reader);
    let first = theirs.receive(None, LONG).unwrap().unwrap();
    assert_eq!(first.body, b"first");
    let second = theirs.receive(None, LONG).unwrap().unwrap();
    assert_eq!(
        (second.body.as_slice(), second.fds.len()),
        (&b"second"[..], 0)
    );
    let [reader] = <[OwnedFd; 1]>::try_from(first.fds).unwrap();
    writer.write_all(b"x").unwrap();
    assert_eq!(rustix::io::read(&reader, &mut [0; 4]), Ok(1));
    let flags = rustix::io::fcntl_getfd(&reader).unwrap();
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    drop(ours);
    assert!(theirs.receive(None, LONG).unwrap().is_none());
}

#[test]
fn the_largest_frame_passes_and_a_larger_one_is_not_sent() {
    let (ours, theirs) = pair();
    let theirs = Channel::from(OwnedFd::from(theirs));
    let body = vec![7; MAX_FRAME];
    std::thread::scope(|scope| {
        scope.spawn(|| ours.send(&body, &[], LONG).unwrap());
        assert_eq!(theirs.receive(None, LONG).unwrap().unwrap().body, body);
    });
    for length in [0, MAX_FRAME + 1] {
        let error = ours.send(&vec![0; length], &[], LONG).unwrap_err();
        assert!(matches!(error, IpcError::TooLong { .. }), "{error}");
    }
}

#[test]
fn s13_lengths_that_no_frame_has_are_refused() {
    for length in [0_u32, 65_537, 1 << 31, u32::MAX] {
        let (ours, mut theirs) = pair();
        theirs.write_all(&length.to_be_bytes()).unwrap();
        let error = ours.receive(None, LONG).unwrap_err();
        assert!(
            matches!(error, IpcError::TooLong { .. }),
            "{length}: {error}"
        );
    }
}

#[test]
fn s12_a_slow_or_half_frame_ends_at_its_deadline_however_it_trickles() {
    let (ours, mut theirs) = pair();
    theirs.write_all(&framed(b"whole")[..7]).unwrap();
    let error = ours.receive(None, SOON).unwrap_err();
    assert!(matches!(error, IpcError::TimedOut(_)), "{error}");

    let (ours, mut theirs) = pair();
    let began = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // A byte at a time, each long before the limit, until the other end hangs up.
            for byte in framed(&[0; 10_000]) {
                if theirs.write_all(&[byte]).is_err() {
                    break;
                }
                std::thread::sleep(SOON / 10);
            }
        });
        let error = ours.receive(None, SOON).unwrap_err();
        assert!(matches!(error, IpcError::TimedOut(_)), "{error}");
        drop(ours);
    });
    assert!(began.elapsed() < SOON * 20);
}

#[test]
fn a_connection_that_says_nothing_is_not_waited_for_longer_than_asked() {
    let (ours, theirs) = pair();
    let error = ours.receive(Some(SOON), LONG).unwrap_err();
    assert!(matches!(error, IpcError::TimedOut(_)), "{error}");
    drop(theirs);
    assert!(ours.receive(None, LONG).unwrap().is_none());
}

#[test]
fn s14_a_peer_that_is_gone_or_does_not_read_is_an_error_not_a_signal() {
    let (ours, theirs) = pair();
    drop(theirs);
    let error = ours.send(b"late", &[], LONG).unwrap_err();
    assert!(matches!(error, IpcError::Closed(_)), "{error}");
    let (ours, _theirs) = pair();
    let error = (0..1000)
        .find_map(|_| ours.send(&[0; MAX_FRAME], &[], SOON).err())
        .unwrap();
    assert!(matches!(error, IpcError::TimedOut(_)), "{error}");
}

#[test]
fn a_frame_that_is_cut_off_is_an_error_and_none_at_all_is_not() {
    for length in 1..framed(b"whole").len() {
        let (ours, mut theirs) = pair();
        theirs.write_all(&framed(b"whole")[..length]).unwrap();
        drop(theirs);
        let error = ours.receive(None, LONG).unwrap_err();
        assert!(matches!(error, IpcError::Closed(_)), "{length}: {error}");
    }
}

/// Sends `fds` with one byte of a header, past the cap that `send` keeps to.
fn send_many(socket: &UnixStream, fds: &[BorrowedFd<'_>]) -> Result<usize, Errno> {
    let mut space = vec![MaybeUninit::uninit(); cmsg_space!(ScmRights(253))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
    let bytes = framed(b"x");
    sendmsg(
        socket,
        &[IoSlice::new(&bytes)],
        &mut control,
        SendFlags::NOSIGNAL,
    )
}

#[test]
fn s10_more_descriptors_than_go_with_a_frame_are_all_closed() {
    let file = tempfile::tempfile().unwrap();
    let before = open_descriptors();
    for count in [17, 18, 100, 253] {
        for _ in 0..20 {
            let (ours, theirs) = pair();
            send_many(&theirs, &vec![file.as_fd(); count]).unwrap();
            let error = ours.receive(None, LONG).unwrap_err();
            assert!(matches!(error, IpcError::TooManyDescriptors(_)), "{error}");
        }
    }
    // Also when they come a few with every byte.
    let (ours, theirs) = pair();
    for byte in framed(b"abcdef") {
        let mut space = [MaybeUninit::uninit(); CONTROL];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = [file.as_fd(); 3];
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        sendmsg(
            &theirs,
            &[IoSlice::new(&[byte])],
            &mut control,
            SendFlags::NOSIGNAL,
        )
        .unwrap();
    }
    let error = ours.receive(None, LONG).unwrap_err();
    assert!(matches!(error, IpcError::TooManyDescriptors(_)), "{error}");
    drop((ours, theirs));
    // Other tests of this process open and close descriptors meanwhile: a leak would be thousands.
    assert!(open_descriptors() < before + 200);
    assert!(file.as_raw_fd() > 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn s13_frames_split_anywhere_come_whole(
        bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 1..6),
        cuts in prop::collection::vec(1_usize..50, 1..40),
    ) {
        let (ours, mut theirs) = pair();
        let bytes: Vec<u8> = bodies.iter().flat_map(|body| framed(body)).collect();
        let found = std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut rest = bytes.as_slice();
                for cut in cuts.iter().cycle() {
                    if rest.is_empty() {
                        break;
                    }
                    let (now, later) = rest.split_at((*cut).min(rest.len()));
                    theirs.write_all(now).unwrap();
                    rest = later;
                }
            });
            let mut found = Vec::new();
            while let Some(frame) = ours.receive(None, LONG).unwrap() {
                found.push(frame.body);
            }
            found
        });
        prop_assert_eq!(found, bodies);
    }

    #[test]
    fn any_bytes_are_frames_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let (ours, mut theirs) = pair();
        theirs.write_all(&bytes).unwrap();
        drop(theirs);
        let mut total = 0;
        while let Ok(Some(frame)) = ours.receive(None, LONG) {
            total += HEADER + frame.body.len();
        }
        prop_assert!(total <= bytes.len());
    }
}
