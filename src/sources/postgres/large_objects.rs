//! Large objects, both directions.
//!
//! An entry holds up to 1,000 of them, framed so that both ends stream. For each object: a header, its length in four
//! bytes (big-endian) and then MessagePack of [`Header`]; then pieces, each with its length in four bytes before it; then a piece of length 0.

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{StreamExt, stream::BoxStream};
use serde::{Deserialize, Serialize};

use super::{
    catalog::grants_json,
    connect::Session,
    facts::Grant,
    quote::{identifier, literal},
};
use crate::sources::{ContentWriter, Entry, ExchangeError, SourceError, entry::unpack};

/// Large objects per entry, at most.
pub(super) const PER_ENTRY: i64 = 1000;
/// Bytes asked for at once: 128 pages of 2 KiB.
const PIECE_BYTES: i32 = 256 << 10;
/// Pieces of one object asked for in one statement.
const PIECES_AT_ONCE: i64 = 8;

/// Attributes of an entry of large objects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchAttributes {
    /// The first object's oid.
    pub first: u32,
    /// The last object's oid.
    pub last: u32,
    /// How many.
    pub count: u64,
}

/// What is kept of a large object beside its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Its number, by which the application's rows know it.
    pub oid: u32,
    /// Owner.
    pub owner: String,
    /// Privileges; `None` is the default.
    #[serde(default)]
    pub grants: Option<Vec<Grant>>,
    /// Comment.
    #[serde(default)]
    pub comment: Option<String>,
}

/// The path of the entry of a batch.
pub(super) fn path(number: u64) -> Vec<u8> {
    format!("large-objects/{number:08}").into_bytes()
}

/// Refuses if there is one that the role may not read.
pub(super) async fn check_readable(session: &Session, role: &str) -> Result<(), SourceError> {
    let doing = "checking the large objects";
    let sql = "SELECT m.oid FROM pg_largeobject_metadata m WHERE NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) \
               AND NOT current_setting('lo_compat_privileges')::bool AND NOT pg_has_role(m.lomowner, 'USAGE') \
               AND NOT EXISTS (SELECT 1 FROM aclexplode(m.lomacl) a WHERE a.privilege_type = 'SELECT' \
               AND CASE a.grantee WHEN 0 THEN true ELSE pg_has_role(a.grantee, 'USAGE') END) ORDER BY m.oid LIMIT 1";
    let row = session.client.query_opt(sql, &[]).await.map_err(|error| session.failed(doing, &error))?;
    match row {
        None => Ok(()),
        Some(row) => {
            let oid: u32 = row.get(0);
            let role = identifier(role);
            Err(SourceError::Denied {
                subject: format!("large object {oid}"),
                detail: format!(
                    "run GRANT SELECT ON LARGE OBJECT {oid} TO {role} (and the same for the others), or on 18 and newer GRANT pg_read_all_data TO {role}"
                ),
            })
        }
    }
}

/// The next batch after `after`, in order of oid.
pub(super) async fn batch(session: &Session, after: u32) -> Result<Vec<Header>, SourceError> {
    let sql = format!(
        "SELECT jsonb_build_object('oid', m.oid::int8, 'owner', pg_get_userbyid(m.lomowner), 'comment', obj_description(m.oid, 'pg_largeobject'), \
         'grants', {}) FROM pg_largeobject_metadata m WHERE m.oid > $1 ORDER BY m.oid LIMIT {PER_ENTRY}",
        grants_json("m.lomacl")
    );
    session.json("listing the large objects", &sql, &[&after]).await
}

/// Writes a batch; `count` is told of bytes as they pass.
pub(super) async fn capture(
    session: &Session,
    headers: &[Header],
    writer: &mut dyn ContentWriter,
    mut count: impl FnMut(u64),
) -> Result<(), SourceError> {
    let doing = "reading large objects";
    let oids: Vec<u32> = headers.iter().map(|header| header.oid).collect();
    // The beginnings of all of them in one statement: most are small, and then that is all.
    let sql = format!("SELECT lo_get(o.oid, 0, {PIECE_BYTES}) FROM unnest($1::oid[]) WITH ORDINALITY o(oid, n) ORDER BY o.n");
    let beginnings = session.client.query_raw(&sql, [&oids]).await.map_err(|error| session.failed(doing, &error))?;
    let mut beginnings = std::pin::pin!(beginnings);
    let more = format!(
        "SELECT lo_get($1, $2 + n * {PIECE_BYTES}, {PIECE_BYTES}) FROM generate_series(0::int8, {}) n ORDER BY n",
        PIECES_AT_ONCE - 1
    );
    let more = session.client.prepare(&more).await.map_err(|error| session.failed(doing, &error))?;
    for header in headers {
        let packed = rmp_serde::to_vec_named(header).map_err(|error| SourceError::Malformed {
            subject: format!("large object {}", header.oid),
            detail: error.to_string(),
        })?;
        let mut framed = BytesMut::with_capacity(packed.len() + PIECE_BYTES as usize + 64);
        frame(&mut framed, &packed);
        let row = beginnings.next().await.ok_or_else(|| SourceError::Unfit {
            subject: format!("large object {}", header.oid),
            detail: "it vanished from the snapshot; back up again".to_owned(),
        })?;
        let row = row.map_err(|error| session.failed(doing, &error))?;
        let piece: &[u8] = row.try_get(0).map_err(|error| session.failed(doing, &error))?;
        let mut complete = piece.len() < PIECE_BYTES as usize;
        if !piece.is_empty() {
            frame(&mut framed, piece);
        }
        count(piece.len() as u64);
        let mut offset = i64::from(PIECE_BYTES);
        while !complete {
            let rows = session.client.query(&more, &[&header.oid, &offset]).await.map_err(|error| session.failed(doing, &error))?;
            for row in rows {
                let piece: &[u8] = row.try_get(0).map_err(|error| session.failed(doing, &error))?;
                if !piece.is_empty() {
                    frame(&mut framed, piece);
                    writer.write(framed.split().freeze()).await?;
                    count(piece.len() as u64);
                }
                complete |= piece.len() < PIECE_BYTES as usize;
            }
            offset += PIECES_AT_ONCE * i64::from(PIECE_BYTES);
        }
        framed.extend_from_slice(&0_u32.to_be_bytes());
        writer.write(framed.freeze()).await?;
    }
    Ok(())
}

fn frame(into: &mut BytesMut, bytes: &[u8]) {
    // Headers and pieces are far below 4 GiB.
    into.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    into.extend_from_slice(bytes);
}

/// Largest frame that is believed: a header with a long comment and many grants, or a piece.
const LARGEST_FRAME_BYTES: usize = 16 << 20;

/// Takes an entry apart: a header, the pieces of its object, the next header.
pub struct Frames {
    stream: BoxStream<'static, Result<Bytes, ExchangeError>>,
    buffer: BytesMut,
    subject: String,
}

impl Frames {
    /// Of the entry `subject`, whose bytes come from `stream`.
    pub fn of(subject: String, stream: BoxStream<'static, Result<Bytes, ExchangeError>>) -> Self {
        Self { stream, buffer: BytesMut::new(), subject }
    }

    /// The next object's header; `None` at the end of the entry. To be called at the beginning and after an object's last piece.
    ///
    /// # Errors
    /// The stream's; [`SourceError::Malformed`].
    pub async fn header(&mut self) -> Result<Option<Header>, SourceError> {
        let Some(frame) = self.next().await? else { return Ok(None) };
        unpack(&frame).map(Some).map_err(|error| self.malformed(&error.to_string()))
    }

    /// The next piece of the object; `None` at its end.
    ///
    /// # Errors
    /// The stream's; [`SourceError::Malformed`].
    pub async fn piece(&mut self) -> Result<Option<Bytes>, SourceError> {
        let piece = self.next().await?.ok_or_else(|| self.malformed("an object lacks its end"))?;
        Ok((!piece.is_empty()).then_some(piece))
    }

    fn malformed(&self, detail: &str) -> SourceError {
        SourceError::Malformed { subject: self.subject.clone(), detail: detail.to_owned() }
    }

    async fn fill(&mut self, wanted: usize) -> Result<bool, SourceError> {
        while self.buffer.len() < wanted {
            match self.stream.next().await {
                Some(bytes) => self.buffer.extend_from_slice(&bytes?),
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// The next frame; `None` at the end of the stream.
    async fn next(&mut self) -> Result<Option<Bytes>, SourceError> {
        if !self.fill(4).await? {
            return if self.buffer.is_empty() { Ok(None) } else { Err(self.malformed("it ends within a frame")) };
        }
        let length = self.buffer.get_u32() as usize;
        if length > LARGEST_FRAME_BYTES {
            return Err(self.malformed("a frame is impossibly long"));
        }
        if !self.fill(length).await? {
            return Err(self.malformed("it ends within a frame"));
        }
        Ok(Some(self.buffer.split_to(length).freeze()))
    }
}

/// Makes the large objects of one entry, in one transaction; returns how many bytes they have.
pub(super) async fn rebuild(
    session: &Session,
    entry: &Entry,
    stream: BoxStream<'static, Result<Bytes, ExchangeError>>,
    mut count: impl FnMut(u64),
) -> Result<(), SourceError> {
    let doing = "making large objects";
    let mut frames = Frames::of(entry.display_path(), stream);
    let attributes: BatchAttributes = entry.attributes()?;
    let put = session.client.prepare("SELECT lo_put($1, $2, $3)").await.map_err(|error| session.failed(doing, &error))?;
    let create = session.client.prepare("SELECT lo_create($1)").await.map_err(|error| session.failed(doing, &error))?;
    session.execute(doing, "BEGIN").await?;
    let mut made = 0;
    while let Some(header) = frames.header().await? {
        session.client.execute(&create, &[&header.oid]).await.map_err(|error| session.failed(doing, &error))?;
        let mut offset: i64 = 0;
        while let Some(piece) = frames.piece().await? {
            session
                .client
                .execute(&put, &[&header.oid, &offset, &piece.as_ref()])
                .await
                .map_err(|error| session.failed(doing, &error))?;
            offset += piece.len() as i64;
            count(piece.len() as u64);
        }
        let belongings = belongings(&header);
        if !belongings.is_empty() {
            session.execute(doing, &belongings).await?;
        }
        made += 1;
    }
    if made != attributes.count {
        return Err(frames.malformed(&format!("it holds {made} large objects instead of {}", attributes.count)));
    }
    session.execute(doing, "COMMIT").await
}

/// Owner, privileges and comment of a large object, as statements.
fn belongings(header: &Header) -> String {
    let object = format!("LARGE OBJECT {}", header.oid);
    let mut sql = format!("ALTER {object} OWNER TO {};", identifier(&header.owner));
    if let Some(comment) = &header.comment {
        sql.push_str(&format!("COMMENT ON {object} IS {};", literal(comment)));
    }
    sql.push_str(&grants(&object, &header.owner, false, header.grants.as_deref()));
    sql
}

/// The statements that give an object exactly these privileges. `to_public` = the default also gives PUBLIC some.
pub(super) fn grants(object: &str, owner: &str, to_public: bool, grants: Option<&[Grant]>) -> String {
    let Some(grants) = grants else { return String::new() };
    let mut sql = format!("REVOKE ALL ON {object} FROM {};", identifier(owner));
    if to_public {
        sql.push_str(&format!("REVOKE ALL ON {object} FROM PUBLIC;"));
    }
    // The owner's own come first: others may have been granted by whom the owner gave the grant option.
    let mut ordered: Vec<&Grant> = grants.iter().collect();
    ordered.sort_by_key(|grant| (grant.grantor != owner, grant.grantee.as_deref() != Some(owner)));
    for grant in ordered {
        let grantee = grant.grantee.as_deref().map_or_else(|| "PUBLIC".to_owned(), identifier);
        let option = if grant.grantable { " WITH GRANT OPTION" } else { "" };
        let statement = format!("GRANT {} ON {object} TO {grantee}{option};", grant.privilege);
        if grant.grantor == owner {
            sql.push_str(&statement);
        } else {
            sql.push_str(&format!("SET ROLE {};{statement}RESET ROLE;", identifier(&grant.grantor)));
        }
    }
    sql
}

#[cfg(test)]
mod tests {
    use super::{Bytes, BytesMut, ExchangeError, Frames, Grant, StreamExt, frame, grants};

    fn frames(bytes: &[u8]) -> Frames {
        // One byte at a time: borders of pieces must not matter.
        let pieces: Vec<Result<Bytes, ExchangeError>> = bytes.chunks(1).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        Frames::of("x".to_owned(), futures_util::stream::iter(pieces).boxed())
    }

    #[tokio::test]
    async fn frames_come_back_whatever_the_pieces() {
        let mut framed = BytesMut::new();
        frame(&mut framed, b"header");
        frame(&mut framed, b"");
        let mut frames = frames(&framed);
        assert_eq!(frames.next().await.unwrap().unwrap().as_ref(), b"header");
        assert!(frames.next().await.unwrap().unwrap().is_empty());
        assert!(frames.next().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_frame_that_is_cut_off_is_an_error() {
        assert!(frames(&[0, 0, 0, 9, 1]).next().await.is_err());
        assert!(frames(&[0, 0]).next().await.is_err());
        assert!(frames(&[255, 0, 0, 0]).next().await.is_err());
    }

    #[test]
    fn privileges_are_given_by_whom_they_came_from() {
        let grant = |grantor: &str, grantee: Option<&str>, grantable| Grant {
            grantor: grantor.to_owned(),
            grantee: grantee.map(str::to_owned),
            privilege: "SELECT".to_owned(),
            grantable,
        };
        let all = [grant("b", None, false), grant("o", Some("b"), true), grant("o", Some("o"), false)];
        assert_eq!(
            grants("LARGE OBJECT 7", "o", false, Some(&all)),
            "REVOKE ALL ON LARGE OBJECT 7 FROM \"o\";GRANT SELECT ON LARGE OBJECT 7 TO \"o\";\
             GRANT SELECT ON LARGE OBJECT 7 TO \"b\" WITH GRANT OPTION;SET ROLE \"b\";GRANT SELECT ON LARGE OBJECT 7 TO PUBLIC;RESET ROLE;"
        );
        assert_eq!(grants("LARGE OBJECT 7", "o", false, None), "");
    }
}
