//! The tokio host against a guest session that echoes.

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;

/// Serves a guest end: port 5000 echoes, port 1 stays silent, others are refused.
async fn serve(mut wire: DuplexStream) {
    let mut session = Session::guest();
    let mut silent = Vec::new();
    let mut buffer = vec![0; 8192];
    loop {
        let count = match wire.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(count) => count,
        };
        session.receive(&buffer[..count]).unwrap();
        while let Some(event) = session.next_event() {
            match event {
                Event::Opened { stream, port: PORT } => session.accept(stream),
                Event::Opened { stream, port: 1 } => {
                    silent.push(stream);
                    session.accept(stream);
                }
                Event::Opened { stream, .. } => session.refuse(stream),
                Event::Readable(stream) if !silent.contains(&stream) => {
                    while session.writable(stream) > 0 {
                        let bytes = session.peek(stream).to_vec();
                        if bytes.is_empty() {
                            break;
                        }
                        let Write::Bytes(count) = session.write(stream, &bytes) else {
                            break;
                        };
                        session.consume(stream, count);
                    }
                    if session.is_at_end(stream) {
                        session.finish(stream);
                        session.close(stream);
                    }
                }
                _ => {}
            }
        }
        wire.write_all(&session.take_output()).await.unwrap();
    }
}

async fn connect() -> MuxClient {
    let (host, guest) = duplex(1 << 20);
    tokio::spawn(serve(guest));
    MuxClient::connect(host).await.unwrap()
}

#[tokio::test]
async fn streams_echo_beside_a_stalled_one() {
    let client = connect().await;
    let mut stalled = client.open(1).await.unwrap();
    let flood = tokio::spawn(async move {
        let result = stalled.write_all(&vec![0; 2 * WINDOW]).await;
        (result, stalled)
    });
    let mut tasks = Vec::new();
    for fill in 0..8_u8 {
        let mut stream = client.open(PORT).await.unwrap();
        tasks.push(tokio::spawn(async move {
            for round in 0..40 {
                let sent = vec![fill ^ round; 10_000];
                stream.write_all(&sent).await.unwrap();
                let mut got = vec![0; sent.len()];
                stream.read_exact(&mut got).await.unwrap();
                assert_eq!(got, sent);
            }
            stream.shutdown().await.unwrap();
            assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert!(!flood.is_finished(), "nobody reads: it has to wait");
    flood.abort();
}

#[tokio::test]
async fn refusals_and_the_end_of_the_wire_are_told() {
    let (host, guest) = duplex(1 << 20);
    let server = tokio::spawn(serve(guest));
    let client = MuxClient::connect(host).await.unwrap();
    assert!(matches!(
        client.open(22).await,
        Err(MuxError::Refused { port: 22 })
    ));
    let mut stream = client.open(1).await.unwrap();
    server.abort();
    client.closed().await;
    assert!(stream.read(&mut [0; 1]).await.is_err());
    assert!(stream.write(&[0; 1]).await.is_err());
    assert!(matches!(
        client.open(PORT).await,
        Err(MuxError::Ended | MuxError::Wire(_))
    ));
}

#[tokio::test]
async fn the_wire_is_dropped_with_the_last_handle() {
    let (host, guest) = duplex(1 << 20);
    let server = tokio::spawn(serve(guest));
    let client = MuxClient::connect(host).await.unwrap();
    let stream = client.open(PORT).await.unwrap();
    drop(client);
    assert!(!server.is_finished());
    drop(stream);
    server.await.unwrap();
}
