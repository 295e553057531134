//! Names of VMs over DNS: `dev.vm` is the address of the running VM `dev`, and nothing else is known.
//!
//! The host's resolver asks here for the zone `vm` only. What comes in may come from anybody: it
//! is answered by [`answer::answer`], which is pure, or dropped. Nothing is ever asked
//! of another server. Sources outside the allowed network get no answer at all.

mod answer;
#[cfg(test)]
mod tests;

use answer::{MAX_QUERY, answer};
use banger_names::VmName;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// TCP connections at one time; more are closed at once. UDP is answered one by one.
const MAX_CONNECTIONS: usize = 16;

/// Queries on one TCP connection.
const MAX_QUERIES: usize = 32;

/// How long a TCP connection may last, whatever it does.
const CONNECTION_LIMIT: Duration = Duration::from_secs(10);

/// The network whose hosts are answered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sources {
    /// Any address in it.
    pub(crate) address: Ipv4Addr,
    /// How many of its leading bits count, 0 to 32; 32 is the host itself.
    pub(crate) prefix: u8,
}

impl Sources {
    fn has(self, source: SocketAddr) -> bool {
        let IpAddr::V4(source) = source.ip() else {
            return false;
        };
        let differing = source.to_bits() ^ self.address.to_bits();
        differing.leading_zeros() >= u32::from(self.prefix.min(32))
    }
}

/// Answers on both sockets until `stop`. `lookup` gives the address of a running VM; it must
/// not block.
pub(crate) async fn serve<L>(
    udp: UdpSocket,
    tcp: TcpListener,
    sources: Sources,
    lookup: L,
    stop: CancellationToken,
) where
    L: Fn(&VmName) -> Option<Ipv4Addr> + Send + Sync + 'static,
{
    let lookup = Arc::new(lookup);
    tokio::select! {
        () = stop.cancelled() => {}
        () = serve_udp(&udp, sources, lookup.as_ref()) => {}
        () = serve_tcp(&tcp, sources, &lookup) => {}
    }
}

async fn serve_udp(
    socket: &UdpSocket,
    sources: Sources,
    lookup: &impl Fn(&VmName) -> Option<Ipv4Addr>,
) {
    // One byte more, to know a query that is too long from one that just fits.
    let mut query = [0; MAX_QUERY + 1];
    loop {
        let (length, source) = match socket.recv_from(&mut query).await {
            Ok(received) => received,
            Err(error) => {
                pause_after("receive a DNS query", &error).await;
                continue;
            }
        };
        if !sources.has(source) {
            tracing::debug!(%source, "dropped a DNS query from outside");
            continue;
        }
        let Some(answer) = answer(&query[..length], lookup) else {
            continue;
        };
        // A full queue loses the answer, as the network may; the resolver asks again.
        if let Err(error) = socket.try_send_to(&answer, source) {
            tracing::debug!(%error, %source, "send a DNS answer");
        }
    }
}

async fn serve_tcp<L>(listener: &TcpListener, sources: Sources, lookup: &Arc<L>)
where
    L: Fn(&VmName) -> Option<Ipv4Addr> + Send + Sync + 'static,
{
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    // Connections end with the server: dropping the set aborts them.
    let mut connections = JoinSet::new();
    loop {
        let (stream, source) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                pause_after("accept a DNS connection", &error).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        if !sources.has(source) {
            tracing::debug!(%source, "dropped a DNS connection from outside");
            continue;
        }
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            tracing::debug!(%source, "refused a DNS connection: {MAX_CONNECTIONS} are open");
            continue;
        };
        let lookup = Arc::clone(lookup);
        connections.spawn(async move {
            let served =
                tokio::time::timeout(CONNECTION_LIMIT, serve_connection(stream, lookup.as_ref()));
            match served.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, %source, "DNS connection ended"),
                Err(_) => tracing::debug!(%source, "DNS connection took too long"),
            }
            drop(place);
        });
    }
}

/// Answers query after query until the peer ends, sends something that is dropped, or has had enough.
async fn serve_connection(
    mut stream: TcpStream,
    lookup: &(impl Fn(&VmName) -> Option<Ipv4Addr> + Sync),
) -> io::Result<()> {
    let mut query = [0; MAX_QUERY];
    for _ in 0..MAX_QUERIES {
        let length = match stream.read_u16().await {
            Ok(length) => usize::from(length),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        };
        let Some(query) = query.get_mut(..length) else {
            return Ok(());
        };
        stream.read_exact(query).await?;
        let Some(answer) = answer(query, lookup) else {
            return Ok(());
        };
        let length = u16::try_from(answer.len()).expect("an answer is capped far below");
        let mut framed = length.to_be_bytes().to_vec();
        framed.extend_from_slice(&answer);
        stream.write_all(&framed).await?;
    }
    Ok(())
}

/// An error of the socket itself, most likely out of memory or descriptors: waiting is all that helps.
async fn pause_after(what: &'static str, error: &io::Error) {
    tracing::debug!(%error, "{what}");
    tokio::time::sleep(Duration::from_millis(50)).await;
}
