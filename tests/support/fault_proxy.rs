//! A TCP proxy that breaks connections on command. The cloud SDKs bring their own connectors, so that a simulated network would
//! miss them: this is a real one, on 127.0.0.1.
//!
//! A fault holds for open connections (clients keep theirs in pools) and for new ones, from the moment [`FaultProxy::set`]
//! returns until the next one is set. Bytes are counted per connection and direction, from that moment on.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
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
    /// Every piece (at most 16 KiB) is held back so long, both ways.
    Delay(Duration),
    /// So many bytes pass, then the connection is reset. What the client had not read by then it may lose.
    Reset { direction: Direction, after_bytes: u64 },
    /// So many bytes pass, then none, and the connection stays open. When the fault is lifted the others follow.
    Stall { direction: Direction, after_bytes: u64 },
    /// So many bytes pass, then the connection ends as if that were all.
    Truncate { direction: Direction, after_bytes: u64 },
}

/// The proxy; it ends when it is dropped.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    commands: mpsc::Sender<(Fault, oneshot::Sender<()>)>,
    task: JoinHandle<()>,
}

impl FaultProxy {
    /// Listens on a free port of 127.0.0.1 and forwards to `target`.
    pub async fn start(target: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (commands, received) = mpsc::channel(1);
        let task = tokio::spawn(listen(listener, address, target, received));
        Ok(Self { address, commands, task })
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on this goes wrong.
    pub async fn set(&self, fault: Fault) {
        let (done, wait) = oneshot::channel();
        self.commands.send((fault, done)).await.expect("the proxy's task runs as long as the proxy");
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
    mut commands: mpsc::Receiver<(Fault, oneshot::Sender<()>)>,
) {
    let mut listener = Some(listener);
    let (faults, fault) = watch::channel(Fault::Pass);
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
                let Some((fault, done)) = command else { return };
                if fault == Fault::Refuse {
                    listener = None;
                } else if listener.is_none() {
                    listener = Some(TcpListener::bind(address).await.expect("the port was ours a moment ago"));
                }
                // Even the same fault once more starts counting anew.
                faults.send_replace(fault);
                // A caller that gave up does not wait for the answer.
                let _ = done.send(());
            }
            accepted = accepted => {
                if let Ok((client, _)) = accepted {
                    connections.spawn(connection(client, target, fault.clone()));
                }
            }
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

/// How a connection ends before its time.
enum Break {
    Reset,
    Truncate,
}

async fn connection(mut client: TcpStream, target: SocketAddr, fault: watch::Receiver<Fault>) {
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
    mut faults: watch::Receiver<Fault>,
) -> Result<(), Break> {
    let mut buffer = vec![0; 16 << 10];
    let mut passed = 0_u64;
    faults.mark_changed();
    loop {
        let read = tokio::select! {
            biased;
            changed = faults.changed() => {
                if changed.is_err() || *faults.borrow_and_update() == Fault::Refuse {
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
            let fault = *faults.borrow();
            let allowed = match fault {
                Fault::Pass => u64::MAX,
                Fault::Refuse => return Err(Break::Reset),
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
            let now = piece.len().min(usize::try_from(allowed).unwrap_or(usize::MAX));
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
