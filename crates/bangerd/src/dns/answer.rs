//! One DNS query in, its answer out: pure, bounded, and silent on what is no query.
//!
//! Written here instead of taken from a library: a name server for one flat zone reads one
//! question and skips the rest, so compression pointers are never followed and nothing is
//! allocated by a count that a packet claims. The question goes back byte for byte, as resolvers that
//! vary the case of its letters expect.

use banger_names::VmName;
use std::net::Ipv4Addr;

/// The longest query that is read.
pub(super) const MAX_QUERY: usize = 1232;
/// No answer is longer: every resolver takes this over UDP, so none is ever cut.
pub(super) const MAX_ANSWER: usize = 512;

/// For how many seconds an address may be kept.
const TTL: u32 = 5;
/// For how many seconds it may be kept that a name is not there: not at all, or a VM that was asked
/// for just before it was made would stay unknown.
const NEGATIVE_TTL: u32 = 0;
/// What we say we take over UDP, by EDNS.
const OUR_UDP_SIZE: u16 = 1232;

const HEADER: u16 = 12;
const MAX_NAME: usize = 255;
const ZONE: &[u8] = b"vm";

const TYPE_A: u16 = 1;
const TYPE_SOA: u16 = 6;
const TYPE_OPT: u16 = 41;
const TYPE_IXFR: u16 = 251;
const TYPE_AXFR: u16 = 252;
const TYPE_ANY: u16 = 255;
const CLASS_IN: u16 = 1;

/// Response codes. [`Code::BadVersion`] needs EDNS for its upper bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Code {
    NoError = 0,
    FormatError = 1,
    NameError = 3,
    NotImplemented = 4,
    Refused = 5,
    BadVersion = 16,
}

/// A query's one question.
#[derive(Debug)]
struct Question<'a> {
    /// As it came, from the name to the class.
    raw: &'a [u8],
    labels: Vec<&'a [u8]>,
    kind: u16,
    class: u16,
}

/// What is said, beside the question and the code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    /// The code alone.
    Nothing,
    Address(Ipv4Addr),
    /// The zone's SOA as the answer.
    Authority,
    /// The zone's SOA beside the answer: the name is not there, or has nothing of this type.
    Denial,
}

/// Answers `query`; `None` where it is malformed, too long or no query, and gets no answer.
pub(super) fn answer(
    query: &[u8],
    lookup: &impl Fn(&VmName) -> Option<Ipv4Addr>,
) -> Option<Vec<u8>> {
    if query.len() > MAX_QUERY {
        return None;
    }
    let mut reader = Reader { rest: query };
    let header = Header::read(&mut reader)?;
    if header.is_response {
        return None;
    }
    if header.opcode != 0 {
        return Some(header.reply(None, None, Code::NotImplemented, Said::Nothing));
    }
    if header.questions != 1 || header.answers != 0 || header.authorities != 0 {
        return Some(header.reply(None, None, Code::FormatError, Said::Nothing));
    }
    let question = reader.question()?;
    let mut edns = None;
    for _ in 0..header.additionals {
        if let Some(found) = reader.additional()?
            && edns.replace(found).is_some()
        {
            return Some(header.reply(None, None, Code::FormatError, Said::Nothing));
        }
    }
    if !reader.rest.is_empty() {
        return None;
    }
    let (code, said) = match edns {
        Some(Edns { version: 1.. }) => (Code::BadVersion, Said::Nothing),
        _ => decide(&question, lookup),
    };
    Some(header.reply(Some(&question), edns, code, said))
}

/// What the zone has to say about a question.
fn decide(question: &Question<'_>, lookup: &impl Fn(&VmName) -> Option<Ipv4Addr>) -> (Code, Said) {
    let Some((zone, names)) = question.labels.split_last() else {
        return (Code::Refused, Said::Nothing);
    };
    let is_ours = zone.eq_ignore_ascii_case(ZONE) && question.class == CLASS_IN;
    if !is_ours || matches!(question.kind, TYPE_IXFR | TYPE_AXFR) {
        return (Code::Refused, Said::Nothing);
    }
    let found = match names {
        [] if matches!(question.kind, TYPE_SOA | TYPE_ANY) => {
            return (Code::NoError, Said::Authority);
        }
        [] => return (Code::NoError, Said::Denial),
        [name] => vm_name(name).and_then(|name| lookup(&name)),
        // VMs have no names below their own.
        _ => None,
    };
    match found {
        Some(address) if matches!(question.kind, TYPE_A | TYPE_ANY) => {
            (Code::NoError, Said::Address(address))
        }
        Some(_) => (Code::NoError, Said::Denial),
        None => (Code::NameError, Said::Denial),
    }
}

fn vm_name(label: &[u8]) -> Option<VmName> {
    let text = std::str::from_utf8(label).ok()?;
    VmName::parse(&text.to_ascii_lowercase()).ok()
}

#[derive(Debug)]
struct Header {
    id: u16,
    is_response: bool,
    opcode: u16,
    /// The bits that go back as they came: recursion desired, checking disabled.
    echoed: u16,
    questions: u16,
    answers: u16,
    authorities: u16,
    additionals: u16,
}

impl Header {
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let id = reader.u16()?;
        let flags = reader.u16()?;
        Some(Self {
            id,
            is_response: flags & 0x8000 != 0,
            opcode: flags >> 11 & 0xf,
            echoed: flags & 0x0110,
            questions: reader.u16()?,
            answers: reader.u16()?,
            authorities: reader.u16()?,
            additionals: reader.u16()?,
        })
    }

    fn reply(
        &self,
        question: Option<&Question<'_>>,
        edns: Option<Edns>,
        code: Code,
        said: Said,
    ) -> Vec<u8> {
        let code = code as u16;
        let is_authoritative = said != Said::Nothing;
        let flags = 0x8000 | self.opcode << 11 | u16::from(is_authoritative) << 10;
        let mut reply = Vec::with_capacity(MAX_ANSWER);
        put(&mut reply, &[self.id, flags | self.echoed | code & 0xf]);
        let counts = [
            question.is_some(),
            matches!(said, Said::Address(_) | Said::Authority),
            said == Said::Denial,
            edns.is_some(),
        ];
        put(&mut reply, &counts.map(u16::from));
        if let Some(question) = question {
            reply.extend_from_slice(question.raw);
            put_record(&mut reply, question, said);
        }
        if edns.is_some() {
            // The root's name; then the upper bits of the code, version 0, no flags, no options.
            reply.push(0);
            put(&mut reply, &[TYPE_OPT, OUR_UDP_SIZE, code >> 4 << 8, 0, 0]);
        }
        debug_assert!(reply.len() <= MAX_ANSWER, "{} bytes", reply.len());
        reply
    }
}

fn put(reply: &mut Vec<u8>, words: &[u16]) {
    for word in words {
        reply.extend_from_slice(&word.to_be_bytes());
    }
}

fn put_u32(reply: &mut Vec<u8>, value: u32) {
    reply.extend_from_slice(&value.to_be_bytes());
}

/// Writes the record that is `said`, whose names point into the question.
fn put_record(reply: &mut Vec<u8>, question: &Question<'_>, said: Said) {
    const POINTER: u16 = 0xc000;
    match said {
        Said::Nothing => {}
        Said::Address(address) => {
            put(reply, &[POINTER | HEADER, TYPE_A, CLASS_IN]);
            put_u32(reply, TTL);
            put(reply, &[4]);
            reply.extend_from_slice(&address.octets());
        }
        Said::Authority | Said::Denial => {
            let before: usize = question
                .labels
                .iter()
                .rev()
                .skip(1)
                .map(|l| l.len() + 1)
                .sum();
            let before = u16::try_from(before).expect("a name is under 256 bytes");
            let zone = POINTER | (HEADER + before);
            put(reply, &[zone, TYPE_SOA, CLASS_IN]);
            put_u32(reply, NEGATIVE_TTL);
            // The server and the person: names that the zone will never have.
            const PERSON: &[u8] = b"\x0ahostmaster";
            let length = 2 + PERSON.len() + 2 + 5 * 4;
            put(reply, &[u16::try_from(length).expect("a constant"), zone]);
            reply.extend_from_slice(PERSON);
            put(reply, &[zone]);
            // Serial, refresh, retry, expire, and how long a denial may be kept.
            for value in [1, 3600, 600, 86_400, NEGATIVE_TTL] {
                put_u32(reply, value);
            }
        }
    }
}

/// What an OPT record says that matters.
#[derive(Debug, Clone, Copy)]
struct Edns {
    version: u8,
}

/// What is left of a query. Every step checks that there is enough.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    /// A question, whose name must be whole: there is nothing yet that it could point to.
    fn question(&mut self) -> Option<Question<'a>> {
        let whole = self.rest;
        let (mut labels, mut length) = (Vec::new(), 1);
        loop {
            match self.u8()? {
                0 => break,
                size @ 1..=63 => labels.push(self.take(size.into())?),
                _ => return None,
            }
            length += 1 + labels.last().map_or(0, |label| label.len());
            if length > MAX_NAME {
                return None;
            }
        }
        let (kind, class) = (self.u16()?, self.u16()?);
        let raw = whole.get(..whole.len() - self.rest.len())?;
        Some(Question {
            raw,
            labels,
            kind,
            class,
        })
    }

    /// Skips an additional record; an OPT record is returned.
    fn additional(&mut self) -> Option<Option<Edns>> {
        let is_root = self.rest.first() == Some(&0);
        self.skip_name()?;
        let (kind, _class) = (self.u16()?, self.u16()?);
        let ttl = self.take(4)?;
        let version = *ttl.get(1)?;
        let length = self.u16()?;
        self.take(length.into())?;
        Some((kind == TYPE_OPT && is_root).then_some(Edns { version }))
    }

    fn skip_name(&mut self) -> Option<()> {
        let mut length = 1;
        while length <= MAX_NAME {
            match self.u8()? {
                0 => return Some(()),
                size @ 1..=63 => {
                    self.take(size.into())?;
                    length += 1 + usize::from(size);
                }
                // A pointer is the end of a name; where it leads does not matter here.
                0xc0.. => return self.take(1).map(drop),
                _ => return None,
            }
        }
        None
    }
}
