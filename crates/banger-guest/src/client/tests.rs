//! Requests and relays over in-memory streams.

use super::*;
use crate::request::{Exec, Exit, FailureCode};
use tokio::io::duplex;

fn exec() -> Request {
    Request::Exec(Exec::default())
}

#[tokio::test]
async fn request_gives_the_reply_and_keeps_what_follows() {
    let (host, guest) = duplex(4096);
    let mut agent = FramedStream::new(guest);
    let reply = Reply {
        pid: Some(7),
        ..Reply::default()
    };
    let asking = exec();
    let (asked, answered) = tokio::join!(request(host, &asking), async {
        let first = agent.recv().await.unwrap().unwrap();
        assert_eq!(first.parse::<Request>().unwrap(), exec());
        agent
            .send(&Frame::json(Kind::Reply, &reply).unwrap())
            .await
            .unwrap();
        agent.send(&Frame::new(Kind::Stdout, *b"out")).await
    });
    answered.unwrap();
    let (mut stream, got) = asked.unwrap();
    assert_eq!(got, reply);
    assert_eq!(stream.recv().await.unwrap().unwrap().payload, b"out");
    drop(agent);
    assert!(stream.recv().await.unwrap().is_none());
}

#[tokio::test]
async fn request_tells_failure_and_silence_apart() {
    let failure = Failure {
        code: FailureCode::NotFound,
        message: "no".to_owned(),
    };
    let (host, guest) = duplex(4096);
    FramedStream::new(guest)
        .send(&Frame::json(Kind::Failure, &failure).unwrap())
        .await
        .unwrap();
    match request(host, &exec()).await {
        Err(ClientError::Failed(got)) => assert_eq!(got, failure),
        other => panic!("{other:?}"),
    }
    let (host, mut guest) = duplex(4096);
    guest.shutdown().await.unwrap();
    assert!(matches!(
        request(host, &exec()).await,
        Err(ClientError::Ended)
    ));
}

struct Relay {
    client: FramedStream<tokio::io::DuplexStream>,
    guest: FramedStream<tokio::io::DuplexStream>,
    done: tokio::task::JoinHandle<Result<Relayed, ClientError>>,
}

fn start() -> Relay {
    let (client, near) = duplex(256);
    let (guest, far) = duplex(256);
    let lanes = Lanes::of(&exec()).unwrap();
    Relay {
        client: FramedStream::new(client),
        guest: FramedStream::new(guest),
        done: tokio::spawn(relay(
            FramedStream::new(near),
            FramedStream::new(far),
            lanes,
        )),
    }
}

#[tokio::test]
async fn relay_hands_on_both_ways_and_ends_with_exit() {
    let mut relay = start();
    let typed = Frame::new(Kind::Stdin, vec![b'x'; 5000]);
    let (sent, got) = tokio::join!(relay.client.send(&typed), relay.guest.recv());
    sent.unwrap();
    assert_eq!(got.unwrap().unwrap(), typed);
    let exit = Frame::json(Kind::Exit, &Exit::default()).unwrap();
    relay.guest.send(&exit).await.unwrap();
    assert_eq!(relay.client.recv().await.unwrap().unwrap(), exit);
    assert_eq!(relay.client.recv().await.unwrap(), None);
    assert_eq!(
        relay.done.await.unwrap().unwrap(),
        Relayed::Guest(Some(exit))
    );
}

#[tokio::test]
async fn relay_refuses_kinds_of_the_other_direction() {
    let mut relay = start();
    relay
        .guest
        .send(&Frame::new(Kind::Stdin, *b"x"))
        .await
        .unwrap();
    assert!(matches!(
        relay.done.await.unwrap(),
        Err(ClientError::Frame(FrameError::Unexpected(Kind::Stdin)))
    ));
    let mut relay = start();
    relay
        .client
        .send(&Frame::new(Kind::Request, *b"{}"))
        .await
        .unwrap();
    assert!(matches!(
        relay.done.await.unwrap(),
        Err(ClientError::Frame(FrameError::Unexpected(Kind::Request)))
    ));
}

#[tokio::test]
async fn relay_tells_the_guest_when_the_client_leaves() {
    let mut relay = start();
    drop(relay.client);
    assert_eq!(relay.done.await.unwrap().unwrap(), Relayed::Client);
    assert!(relay.guest.recv().await.unwrap().is_none());
}

#[tokio::test]
async fn sending_that_was_cut_short_is_finished_by_the_next() {
    let (here, there) = tokio::io::duplex(100);
    let (mut here, mut there) = (FramedStream::new(here), FramedStream::new(there));
    let large = Frame::new(Kind::Data, vec![7; 5000]);
    {
        let sending = here.send(&large);
        tokio::pin!(sending);
        // Polled once: a part is written, and then the sender gives up.
        assert!(poll_once(sending).await.is_pending());
    }
    let last = Frame::new(Kind::Data, *b"last");
    let (sent, first) = tokio::join!(here.send(&last), async {
        let first = there.recv().await.unwrap().unwrap();
        (first, there.recv().await.unwrap().unwrap())
    });
    sent.unwrap();
    assert_eq!(first, (large, last));
}

async fn poll_once<F: Future>(mut future: std::pin::Pin<&mut F>) -> std::task::Poll<F::Output> {
    std::future::poll_fn(|context| std::task::Poll::Ready(future.as_mut().poll(context))).await
}
