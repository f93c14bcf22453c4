//! Proving who we are ("Start-up" and "SASL Authentication" in the PostgreSQL manual's message flow).

use bytes::BytesMut;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{self, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256};
use postgres_protocol::message::frontend;
use tokio::io::AsyncWriteExt as _;

use crate::conninfo::{ChannelBinding, ConnectOptions, Password};
use crate::error::{Error, ErrorKind, Result, ServerError};
use crate::frame::{
    Body, Frame, FrameBuffer, MAX_STARTUP_MESSAGE, TAG_AUTHENTICATION, TAG_ERROR, TAG_NOTICE,
    TAG_PROTOCOL_VERSION,
};
use crate::transport::Transport;

const OK: i32 = 0;
const KERBEROS: i32 = 2;
const CLEARTEXT: i32 = 3;
const MD5: i32 = 5;
const GSS: i32 = 7;
const SSPI: i32 = 9;
const SASL: i32 = 10;
const SASL_CONTINUE: i32 = 11;
const SASL_FINAL: i32 = 12;

fn refused(detail: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Auth, "authentication failed", detail)
}

/// Answers the server until it is content.
pub(crate) async fn authenticate(
    io: &mut Transport,
    frames: &mut FrameBuffer,
    options: &ConnectOptions,
    password: Option<&Password>,
) -> Result<()> {
    let mut exchange = Exchange { io, frames, options, password };
    let frame = exchange.request().await?;
    let mut body = Body(&frame.body);
    let method = body.i32()?;
    if options.channel_binding == ChannelBinding::Require && method != SASL {
        return Err(refused(
            "channel_binding=require, but the server asks for a method without it (it needs scram-sha-256 over TLS)",
        ));
    }
    match method {
        OK => return Ok(()),
        CLEARTEXT => exchange.send_password(exchange.password()?).await?,
        MD5 => {
            let salt = body.bytes(4)?.try_into().map_err(|_| Error::protocol("an MD5 salt is too short"))?;
            let hash = md5_hash(options.user.as_bytes(), exchange.password()?, salt);
            exchange.send_password(hash.as_bytes()).await?;
        }
        SASL => exchange.scram(body).await?,
        KERBEROS | GSS | SSPI => {
            return Err(refused(
                "the server asks for GSSAPI or Kerberos, which is not supported; use scram-sha-256 or a certificate",
            ));
        }
        other => {
            return Err(refused(format_args!("the server asks for method {other}, which is not supported")));
        }
    }
    let frame = exchange.request().await?;
    match Body(&frame.body).i32()? {
        OK => Ok(()),
        _ => Err(frame.unexpected("the end of authentication")),
    }
}

struct Exchange<'a> {
    io: &'a mut Transport,
    frames: &'a mut FrameBuffer,
    options: &'a ConnectOptions,
    password: Option<&'a Password>,
}

impl<'a> Exchange<'a> {
    /// The next authentication message.
    async fn request(&mut self) -> Result<Frame> {
        loop {
            let frame = self.frames.next(self.io, MAX_STARTUP_MESSAGE).await?;
            match frame.tag {
                TAG_AUTHENTICATION => return Ok(frame),
                TAG_ERROR => {
                    return Err(Error::from_server(
                        "the server refused the connection",
                        ServerError::parse(&frame.body),
                    ));
                }
                TAG_NOTICE | TAG_PROTOCOL_VERSION => {}
                _ => return Err(frame.unexpected("authentication")),
            }
        }
    }

    async fn expect(&mut self, method: i32) -> Result<Frame> {
        let frame = self.request().await?;
        if Body(&frame.body).i32()? == method { Ok(frame) } else { Err(frame.unexpected("SCRAM")) }
    }

    fn password(&self) -> Result<&'a [u8]> {
        self.password.map(|password| password.0.as_bytes()).ok_or_else(|| {
            refused(
                "the server asks for a password and none is known: put it into the URL, PGPASSWORD or the password file",
            )
        })
    }

    async fn send(&mut self, message: &[u8]) -> Result<()> {
        let failed = |err| Error::io("authentication failed", &err);
        self.io.write_all(message).await.map_err(failed)?;
        self.io.flush().await.map_err(failed)
    }

    async fn send_password(&mut self, password: &[u8]) -> Result<()> {
        let mut message = BytesMut::new();
        frontend::password_message(password, &mut message).map_err(refused)?;
        self.send(&message).await
    }

    async fn scram(&mut self, mut body: Body<'_>) -> Result<()> {
        let (mut plain, mut plus) = (false, false);
        loop {
            match body.text()?.as_str() {
                "" => break,
                SCRAM_SHA_256 => plain = true,
                SCRAM_SHA_256_PLUS => plus = true,
                _ => {}
            }
        }
        let policy = self.options.channel_binding;
        let hash = self.io.channel_binding().filter(|_| policy != ChannelBinding::Disable);
        let (mechanism, binding) = match hash {
            Some(hash) if plus => (SCRAM_SHA_256_PLUS, sasl::ChannelBinding::tls_server_end_point(hash)),
            // We could and say so: a server that could as well, but whose offer somebody cut out, will notice.
            Some(_) => (SCRAM_SHA_256, sasl::ChannelBinding::unrequested()),
            None => (SCRAM_SHA_256, sasl::ChannelBinding::unsupported()),
        };
        if mechanism == SCRAM_SHA_256 && policy == ChannelBinding::Require {
            return Err(refused(if self.io.is_encrypted() {
                "channel_binding=require, but the server does not offer it"
            } else {
                "channel_binding=require, but the connection does not use TLS"
            }));
        }
        if mechanism == SCRAM_SHA_256 && !plain {
            return Err(refused("the server offers no SASL mechanism that is supported"));
        }

        let mut scram = ScramSha256::new(self.password()?, binding);
        let mut message = BytesMut::new();
        frontend::sasl_initial_response(mechanism, scram.message(), &mut message).map_err(refused)?;
        self.send(&message).await?;

        let frame = self.expect(SASL_CONTINUE).await?;
        scram.update(frame.body.get(4..).unwrap_or_default()).map_err(refused)?;
        message.clear();
        frontend::sasl_response(scram.message(), &mut message).map_err(refused)?;
        self.send(&message).await?;

        // The server proves here that it knows the password as well; only then is its word taken.
        let frame = self.expect(SASL_FINAL).await?;
        scram.finish(frame.body.get(4..).unwrap_or_default()).map_err(refused)
    }
}
