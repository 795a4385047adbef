//! Start-up of a replication connection: who we are, and the proof of it.

use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use postgres_protocol::{
    authentication::{
        md5_hash,
        sasl::{ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256},
    },
    message::{
        backend::{AuthenticationSaslBody, Message},
        frontend,
    },
};
use secrecy::{ExposeSecret, SecretString};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    parsed, unexpected,
    wire::{MOST_ANSWER_BYTES, Wire, broken, made_no_sense},
};
use crate::sources::postgres::failure::{Cause, Said};

/// Who logs in.
pub(super) struct Login<'a> {
    pub(super) user: &'a str,
    pub(super) password: Option<&'a SecretString>,
    /// What the session calls itself.
    pub(super) name: &'a str,
    /// `-c name=value`.
    pub(super) options: Option<&'a str>,
    /// What ties the proof to the TLS below; nothing without TLS, and where the certificate allows none.
    pub(super) binding: Option<Vec<u8>>,
}

/// Logs in, up to where the server is ready.
pub(super) async fn login<S: AsyncRead + AsyncWrite + Unpin>(wire: &mut Wire<S>, login: Login<'_>) -> Result<(), Said> {
    let mut parameters =
        vec![("user", login.user), ("replication", "true"), ("application_name", login.name), ("client_encoding", "UTF8")];
    parameters.extend(login.options.map(|options| ("options", options)));
    let mut bytes = BytesMut::new();
    frontend::startup_message(parameters, &mut bytes).map_err(broken)?;
    wire.send(&bytes).await?;
    prove(wire, &login).await?;
    loop {
        match answer(wire).await? {
            Message::ReadyForQuery(_) => return Ok(()),
            Message::BackendKeyData(_) | Message::ParameterStatus(_) | Message::NoticeResponse(_) => {}
            other => return Err(unexpected(&other)),
        }
    }
}

async fn answer<S: AsyncRead + AsyncWrite + Unpin>(wire: &mut Wire<S>) -> Result<Message, Said> {
    parsed(&mut wire.frame(MOST_ANSWER_BYTES).await?)
}

/// Proves who we are in whatever way the server asks for, as every other session does: how much that is worth without TLS is `sslmode`'s affair.
async fn prove<S: AsyncRead + AsyncWrite + Unpin>(wire: &mut Wire<S>, login: &Login<'_>) -> Result<(), Said> {
    let password = || {
        let missing = || Said { cause: Cause::NoPassword, words: "password missing".to_owned() };
        login.password.map(|password| password.expose_secret().as_bytes()).ok_or_else(missing)
    };
    let mut bytes = BytesMut::new();
    match answer(wire).await? {
        Message::AuthenticationOk => return Ok(()),
        Message::AuthenticationCleartextPassword => {
            frontend::password_message(password()?, &mut bytes).map_err(broken)?;
            wire.send(&bytes).await?;
        }
        Message::AuthenticationMd5Password(body) => {
            let hash = md5_hash(login.user.as_bytes(), password()?, body.salt());
            frontend::password_message(hash.as_bytes(), &mut bytes).map_err(broken)?;
            wire.send(&bytes).await?;
        }
        Message::AuthenticationSasl(body) => scram(wire, &body, password()?, login.binding.as_deref()).await?,
        Message::AuthenticationKerberosV5
        | Message::AuthenticationScmCredential
        | Message::AuthenticationGss
        | Message::AuthenticationSspi => {
            return Err(Said { cause: Cause::Line, words: "the server asks for a proof that is not known here".to_owned() });
        }
        other => return Err(unexpected(&other)),
    }
    match answer(wire).await? {
        Message::AuthenticationOk => Ok(()),
        other => Err(unexpected(&other)),
    }
}

/// SCRAM (RFC 5802, 7677), with channel binding where both sides can: the server has to prove that it knows the password, too.
async fn scram<S: AsyncRead + AsyncWrite + Unpin>(
    wire: &mut Wire<S>,
    body: &AuthenticationSaslBody,
    password: &[u8],
    binding: Option<&[u8]>,
) -> Result<(), Said> {
    let offered: Vec<&str> = body.mechanisms().collect().map_err(broken)?;
    let (binding, mechanism) = match binding {
        Some(binding) if offered.contains(&SCRAM_SHA_256_PLUS) => {
            (ChannelBinding::tls_server_end_point(binding.to_vec()), SCRAM_SHA_256_PLUS)
        }
        _ if !offered.contains(&SCRAM_SHA_256) => {
            return Err(Said { cause: Cause::Line, words: "the server offers no SCRAM-SHA-256".to_owned() });
        }
        // The server learns that we could: somebody in between who took the other mechanism out is found out.
        Some(_) => (ChannelBinding::unrequested(), SCRAM_SHA_256),
        None => (ChannelBinding::unsupported(), SCRAM_SHA_256),
    };
    let failed = |error: std::io::Error| Said { cause: Cause::Line, words: format!("authentication error: {error}") };
    let mut scram = ScramSha256::new(password, binding);
    let mut bytes = BytesMut::new();
    frontend::sasl_initial_response(mechanism, scram.message(), &mut bytes).map_err(broken)?;
    wire.send(&bytes).await?;
    match answer(wire).await? {
        Message::AuthenticationSaslContinue(body) => scram.update(body.data()).map_err(failed)?,
        other => return Err(unexpected(&other)),
    }
    bytes.clear();
    frontend::sasl_response(scram.message(), &mut bytes).map_err(broken)?;
    wire.send(&bytes).await?;
    match answer(wire).await? {
        Message::AuthenticationSaslFinal(body) => scram.finish(body.data()).map_err(failed),
        _ => Err(made_no_sense("it does not prove that it knows the password")),
    }
}

#[cfg(test)]
mod tests {
    use secrecy::SecretString;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::{Login, Wire, login};

    /// What a client says first, and then when it is asked for a proof by these mechanisms.
    async fn said(mechanisms: &[u8], binding: Option<Vec<u8>>) -> (Vec<u8>, Vec<u8>) {
        let (mut server, line) = duplex(4096);
        let client = tokio::spawn(async move {
            let password = SecretString::from("secret");
            let who = Login { user: "ada", password: Some(&password), name: "us", options: Some("-c a=b"), binding };
            login(&mut Wire::new(line), who).await
        });
        let mut startup = vec![0; server.read_u32().await.unwrap() as usize - 4];
        server.read_exact(&mut startup).await.unwrap();
        let mut asks = vec![b'R'];
        asks.extend(u32::try_from(mechanisms.len() + 8).unwrap().to_be_bytes());
        asks.extend([0, 0, 0, 10]);
        asks.extend(mechanisms);
        server.write_all(&asks).await.unwrap();
        let mut proof = vec![0; 512];
        let read = server.read(&mut proof).await.unwrap();
        drop(server);
        assert!(client.await.unwrap().is_err());
        (startup, proof[..read].to_vec())
    }

    fn has(bytes: &[u8], words: &[u8]) -> bool {
        bytes.windows(words.len()).any(|window| window == words)
    }

    #[tokio::test]
    async fn the_proof_is_bound_to_the_encryption_where_both_can() {
        let both = &b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0"[..];
        let (startup, bound) = said(both, Some(vec![7; 32])).await;
        assert!(has(&startup, b"user\0ada\0replication\0true\0application_name\0us\0"));
        assert!(has(&startup, b"options\0-c a=b\0"));
        assert!(has(&bound, b"SCRAM-SHA-256-PLUS\0") && has(&bound, b"p=tls-server-end-point,,n=,r="));
        let (_, cannot) = said(both, None).await;
        assert!(has(&cannot, b"SCRAM-SHA-256\0") && has(&cannot, b"n,,n=,r="));
        let (_, could) = said(b"SCRAM-SHA-256\0\0", Some(vec![7; 32])).await;
        assert!(has(&could, b"SCRAM-SHA-256\0") && has(&could, b"y,,n=,r="), "whoever took the other out is found out");
    }
}
