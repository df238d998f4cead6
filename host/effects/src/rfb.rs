//! The handshake with a guest's RFB server (RFC 6143 7.1 and 7.2), up to where a client may begin.
//!
//! ```text
//! version -> security types -> VncAuth: challenge, answer | None -> result | in: the next byte is the client's ClientInit
//! ```
//! Nothing is read beyond the handshake, whatever the server claims; its reasons are quoted at most [`MAX_REASON`] bytes long.

use std::io;

use airlock_protocol::Sensitive;
use airlock_protocol::vnc_auth::{self, CHALLENGE_BYTES, SECURITY_NONE, SECURITY_VNC_AUTH};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// What is quoted of the server's reason, in bytes.
const MAX_REASON: u32 = 200;

/// Why a server did not let us in.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// It wants a password, and none is known.
    #[error("the RFB server asks for a password, and there is none yet")]
    NoPassword,
    /// It wants a login of another kind, or does not take the password. `vnc_auth_mismatch` of the catalogue.
    #[error("the RFB server does not let the daemon in: {said}")]
    NotLetIn {
        /// What it asks for, or said.
        said: String,
    },
    /// It is no RFB server, or refuses everybody.
    #[error("the RFB server cannot be talked to: {said}")]
    Refused {
        /// What it said, or did.
        said: String,
    },
    /// The connection broke.
    #[error("the connection broke during the RFB handshake")]
    Broke(#[source] io::Error),
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                Self::Refused { said: "it closed the connection during the RFB handshake".to_owned() }
            }
            _ => Self::Broke(error),
        }
    }
}

/// Gets in, with the password if the server asks for one.
pub async fn handshake<S>(stream: &mut S, password: Option<&Sensitive>) -> Result<(), HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut version = [0; 12];
    stream.read_exact(&mut version).await?;
    let minor = minor_version(&version).ok_or_else(|| {
        let said = format!("it is no RFB server: it begins with {:?}", String::from_utf8_lossy(&version));
        HandshakeError::Refused { said }
    })?;
    stream.write_all(format!("RFB 003.00{minor}\n").as_bytes()).await?;
    let offered = if minor == 3 {
        let one = stream.read_u32().await?;
        vec![u8::try_from(one).unwrap_or(u8::MAX)]
    } else {
        let mut types = vec![0; usize::from(stream.read_u8().await?)];
        stream.read_exact(&mut types).await?;
        types
    };
    if offered.is_empty() || offered == [0] {
        return Err(HandshakeError::Refused { said: format!("it refuses: {}", reason(stream).await?) });
    }
    match (offered.contains(&SECURITY_VNC_AUTH), password) {
        (true, Some(password)) => {
            choose(stream, minor, SECURITY_VNC_AUTH).await?;
            let mut challenge = [0; CHALLENGE_BYTES];
            stream.read_exact(&mut challenge).await?;
            stream.write_all(&vnc_auth::answer(password, &challenge)).await?;
            if stream.read_u32().await? != 0 {
                // RFC 6143 7.1.3: before 3.8 no reason follows.
                let said = if minor >= 8 { format!(": {}", reason(stream).await?) } else { String::new() };
                return Err(HandshakeError::NotLetIn { said: format!("it refuses the password{said}") });
            }
        }
        _ if offered.contains(&SECURITY_NONE) => {
            choose(stream, minor, SECURITY_NONE).await?;
            // RFC 6143 7.1.3: before 3.8 no result follows None.
            if minor >= 8 && stream.read_u32().await? != 0 {
                return Err(HandshakeError::Refused { said: format!("it refuses: {}", reason(stream).await?) });
            }
        }
        (true, None) => return Err(HandshakeError::NoPassword),
        (false, _) => {
            let said = format!("it asks for a login (security types {offered:?})");
            return Err(HandshakeError::NotLetIn { said });
        }
    }
    Ok(())
}

/// Before 3.7 the server chooses.
async fn choose<S: AsyncWrite + Unpin>(stream: &mut S, minor: u32, security: u8) -> io::Result<()> {
    if minor >= 7 { stream.write_all(&[security]).await } else { Ok(()) }
}

/// The minor version that both sides speak, of the server's `RFB 003.xxx\n`. RFC 6143 7.1.1: what is not 3.7 or 3.8 counts as
/// 3.3, unless it is newer.
fn minor_version(version: &[u8; 12]) -> Option<u32> {
    let text = std::str::from_utf8(version).ok()?.strip_prefix("RFB ")?.strip_suffix('\n')?;
    let (major, minor) = text.split_once('.')?;
    let (major, minor): (u32, u32) = (major.parse().ok()?, minor.parse().ok()?);
    match (major, minor) {
        (4.., _) | (3, 8..) => Some(8),
        (3, 7) => Some(7),
        (3, _) => Some(3),
        _ => None,
    }
}

async fn reason<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<String> {
    let length = stream.read_u32().await?.min(MAX_REASON);
    let mut text = vec![0; usize::try_from(length).unwrap_or_default()];
    stream.read_exact(&mut text).await?;
    Ok(format!("{:?}", String::from_utf8_lossy(&text)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{DuplexStream, duplex};

    const PASSWORD: &str = "airlock1";

    /// A server that speaks as written, and what the handshake made of it.
    async fn against<F: Future<Output = io::Result<()>> + Send + 'static>(
        password: Option<&str>,
        serve: impl FnOnce(DuplexStream) -> F,
    ) -> Result<(), HandshakeError> {
        let (mut ours, theirs) = duplex(4096);
        let server = tokio::spawn(serve(theirs));
        let password = password.map(Sensitive::new);
        let outcome = handshake(&mut ours, password.as_ref()).await;
        server.await.unwrap().unwrap();
        outcome
    }

    async fn offer(stream: &mut DuplexStream, types: &[u8]) -> io::Result<u8> {
        stream.write_all(b"RFB 003.008\n").await?;
        let mut version = [0; 12];
        stream.read_exact(&mut version).await?;
        assert_eq!(&version, b"RFB 003.008\n");
        stream.write_all(&[&[u8::try_from(types.len()).unwrap()][..], types].concat()).await?;
        stream.read_u8().await
    }

    async fn vnc_auth_server(mut stream: DuplexStream) -> io::Result<()> {
        assert_eq!(offer(&mut stream, &[SECURITY_NONE, SECURITY_VNC_AUTH]).await?, SECURITY_VNC_AUTH);
        let challenge = *b"0123456789abcdef";
        stream.write_all(&challenge).await?;
        let mut answer = [0; CHALLENGE_BYTES];
        stream.read_exact(&mut answer).await?;
        if answer == vnc_auth::answer(&Sensitive::new(PASSWORD), &challenge) {
            stream.write_all(&[0, 0, 0, 0]).await
        } else {
            stream.write_all(b"\0\0\0\x01\0\0\0\x16Authentication failure").await
        }
    }

    #[tokio::test]
    async fn the_password_is_proved_where_it_is_asked_for() {
        against(Some(PASSWORD), vnc_auth_server).await.unwrap();
        let wrong = against(Some("wrong"), vnc_auth_server).await.unwrap_err();
        assert!(
            matches!(&wrong, HandshakeError::NotLetIn { said } if said == "it refuses the password: \"Authentication failure\""),
            "{wrong:?}"
        );
    }

    #[tokio::test]
    async fn an_open_server_needs_no_password_and_a_closed_one_waits_for_it() {
        let open = |mut stream: DuplexStream| async move {
            assert_eq!(offer(&mut stream, &[SECURITY_NONE]).await?, SECURITY_NONE);
            stream.write_all(&[0; 4]).await
        };
        against(None, open).await.unwrap();
        against(Some(PASSWORD), open).await.unwrap();
        let closed = |mut stream: DuplexStream| async move {
            let chosen = offer(&mut stream, &[SECURITY_VNC_AUTH]).await;
            assert!(chosen.is_err(), "nothing is chosen: {chosen:?}");
        };
        let (mut ours, theirs) = duplex(4096);
        let server = tokio::spawn(closed(theirs));
        assert!(matches!(handshake(&mut ours, None).await, Err(HandshakeError::NoPassword)));
        drop(ours);
        server.await.unwrap();
    }

    #[tokio::test]
    async fn older_servers_choose_themselves() {
        let older = |mut stream: DuplexStream| async move {
            stream.write_all(b"RFB 003.003\n\0\0\0\x01").await?;
            let mut version = [0; 12];
            stream.read_exact(&mut version).await?;
            assert_eq!(&version, b"RFB 003.003\n");
            Ok(())
        };
        against(Some(PASSWORD), older).await.unwrap();
    }

    #[tokio::test]
    async fn a_break_keeps_its_cause() {
        let error = HandshakeError::from(io::Error::from_raw_os_error(104));
        assert!(crate::testing::chain(&error)[1].contains("os error 104"), "{error:?}");
    }
}
