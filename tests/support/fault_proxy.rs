//! A TCP proxy that breaks connections on command. The cloud SDKs bring their own connectors, so that a simulated network would
//! miss them: this is a real one, on 127.0.0.1.
//!
//! A fault holds for open connections (clients keep theirs in pools) and for new ones, from the moment [`FaultProxy::set`]
//! returns until the next one is set. Bytes are counted per connection and direction, from that moment on. [`FaultProxy::set_once`] hits one
//! connection alone: the first on which it shows.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server: requests, uploads.
    ToTarget,
    /// From the server to the client: answers. A fault after 0 bytes loses the answer to what the server has done.
    FromTarget,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    Pass,
    /// Nobody listens, and open connections are reset.
    Refuse,
    /// Nobody answers: what asks for a connection hears nothing, and nothing moves on open ones.
    Blackhole,
    /// Every piece (at most 16 KiB) is held back so long, both ways.
    Delay(Duration),
    /// So many bytes pass, then the connection is reset. What the client had not read by then it may lose.
    Reset { direction: Direction, after_bytes: u64 },
    /// So many bytes pass, then none, and the connection stays open. When the fault is lifted the others follow.
    Stall { direction: Direction, after_bytes: u64 },
    /// So many bytes pass, then the connection ends as if that were all.
    Truncate { direction: Direction, after_bytes: u64 },
}

/// A fault, and whether a connection has met it, where it is for one alone.
#[derive(Debug, Clone)]
struct Order {
    fault: Fault,
    met: Option<Arc<AtomicBool>>,
}

/// The proxy; it ends when it is dropped.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    accepted: Arc<AtomicU64>,
    commands: mpsc::Sender<(Order, oneshot::Sender<()>)>,
    task: JoinHandle<()>,
}

impl FaultProxy {
    /// Listens on a free port of 127.0.0.1 and forwards to `target`.
    pub async fn start(target: SocketAddr) -> io::Result<Self> {
        Self::start_on(IpAddr::V4(Ipv4Addr::LOCALHOST), target).await
    }

    /// The same on another address of this machine.
    pub async fn start_on(here: IpAddr, target: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((here, 0)).await?;
        let address = listener.local_addr()?;
        let (commands, received) = mpsc::channel(1);
        let accepted = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn(listen(listener, address, target, received, Arc::clone(&accepted)));
        Ok(Self { address, accepted, commands, task })
    }

    /// Connections that were made so far.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on this goes wrong.
    pub async fn set(&self, fault: Fault) {
        self.order(Order { fault, met: None }).await;
    }

    /// From now on this goes wrong, once: on the connection on which so many bytes have passed first. The others pass.
    pub async fn set_once(&self, fault: Fault) {
        self.order(Order { fault, met: Some(Arc::default()) }).await;
    }

    async fn order(&self, order: Order) {
        let (done, wait) = oneshot::channel();
        self.commands.send((order, done)).await.expect("the proxy's task runs as long as the proxy");
        wait.await.expect("the proxy's task answers every command; a panic of it is shown above");
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn listen(
    listener: TcpListener,
    address: SocketAddr,
    target: SocketAddr,
    mut commands: mpsc::Receiver<(Order, oneshot::Sender<()>)>,
    count: Arc<AtomicU64>,
) {
    let mut listener = Some(listener);
    let (faults, fault) = watch::channel(Order { fault: Fault::Pass, met: None });
    let mut hole = Vec::new();
    // Dropped, and so ended, with this task.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let accepted = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            command = commands.recv() => {
                let Some((order, done)) = command else { return };
                hole.clear();
                if matches!(order.fault, Fault::Refuse | Fault::Blackhole) {
                    listener = None;
                    if order.fault == Fault::Blackhole {
                        hole.push(blackhole(address).await.expect("the port was ours a moment ago"));
                    }
                } else if listener.is_none() {
                    listener = Some(TcpListener::bind(address).await.expect("the port was ours a moment ago"));
                }
                // Even the same fault once more starts counting anew.
                faults.send_replace(order);
                // A caller that gave up does not wait for the answer.
                let _ = done.send(());
            }
            accepted = accepted => {
                if let Ok((client, _)) = accepted {
                    count.fetch_add(1, Ordering::SeqCst);
                    connections.spawn(connection(client, target, fault.clone()));
                }
            }
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

/// A listener whose queue is full: the kernel drops what asks for a connection.
async fn blackhole(address: SocketAddr) -> io::Result<(TcpListener, Vec<TcpStream>)> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    let listener = socket.listen(0)?;
    let mut waiting = Vec::new();
    while let Ok(connected) = timeout(Duration::from_millis(100), TcpStream::connect(address)).await {
        waiting.push(connected?);
    }
    Ok((listener, waiting))
}

/// How a connection ends before its time.
enum Break {
    Reset,
    Truncate,
}

async fn connection(mut client: TcpStream, target: SocketAddr, fault: watch::Receiver<Order>) {
    let Ok(mut server) = TcpStream::connect(target).await else {
        // As near to a refusal as an accepted connection comes.
        let _ = client.set_zero_linger();
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let ended = {
        let (client_read, client_write) = client.split();
        let (server_read, server_write) = server.split();
        tokio::try_join!(
            pump(client_read, server_write, Direction::ToTarget, fault.clone()),
            pump(server_read, client_write, Direction::FromTarget, fault),
        )
    };
    match ended {
        Ok(_) => {}
        Err(Break::Reset) => {
            let _ = (client.set_zero_linger(), server.set_zero_linger());
        }
        Err(Break::Truncate) => {
            // Closing with unread bytes would send a reset: say the end to both, and read what still comes.
            let _ = (client.shutdown().await, server.shutdown().await);
            let drained = async { tokio::join!(drain(&mut client), drain(&mut server)) };
            let _ = timeout(Duration::from_secs(5), drained).await;
        }
    }
}

async fn drain(stream: &mut TcpStream) {
    let mut buffer = [0; 4096];
    while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
}

/// Forwards one direction until its end, or until the fault breaks the connection.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    direction: Direction,
    mut faults: watch::Receiver<Order>,
) -> Result<(), Break> {
    let mut buffer = vec![0; 16 << 10];
    let mut passed = 0_u64;
    faults.mark_changed();
    loop {
        let read = tokio::select! {
            biased;
            changed = faults.changed() => {
                if changed.is_err() || faults.borrow_and_update().fault == Fault::Refuse {
                    return Err(Break::Reset);
                }
                passed = 0;
                continue;
            }
            read = from.read(&mut buffer) => read,
        };
        let mut piece = match read {
            Ok(0) => return to.shutdown().await.map_err(|_| Break::Reset),
            Ok(read) => &buffer[..read],
            Err(_) => return Err(Break::Reset),
        };
        while !piece.is_empty() {
            if faults.has_changed().unwrap_or(true) {
                faults.mark_unchanged();
                passed = 0;
            }
            let Order { fault, met } = faults.borrow().clone();
            let allowed = match fault {
                Fault::Pass => u64::MAX,
                Fault::Refuse => return Err(Break::Reset),
                Fault::Blackhole => 0,
                Fault::Delay(delay) => {
                    sleep(delay).await;
                    u64::MAX
                }
                Fault::Reset { direction: hit, after_bytes }
                | Fault::Stall { direction: hit, after_bytes }
                | Fault::Truncate { direction: hit, after_bytes } => {
                    if hit == direction {
                        after_bytes.saturating_sub(passed)
                    } else {
                        u64::MAX
                    }
                }
            };
            let mut now = piece.len().min(usize::try_from(allowed).unwrap_or(usize::MAX));
            if now < piece.len() && met.is_some_and(|met| met.swap(true, Ordering::SeqCst)) {
                // It was for another connection.
                now = piece.len();
            }
            let (first, rest) = piece.split_at(now);
            if to.write_all(first).await.is_err() || to.flush().await.is_err() {
                return Err(Break::Reset);
            }
            passed += now as u64;
            piece = rest;
            if !piece.is_empty() {
                match fault {
                    Fault::Reset { .. } => return Err(Break::Reset),
                    Fault::Truncate { .. } => return Err(Break::Truncate),
                    _ => {
                        if faults.changed().await.is_err() {
                            return Err(Break::Reset);
                        }
                        passed = 0;
                    }
                }
            }
        }
    }
}
