//! Metadata values: read once to check them, left in the map where they are long.

use std::ops::Range;

use super::reader::Reader;

/// GGUF's own limit.
const MAX_KEY_BYTES: usize = 65_535;
/// Arrays of arrays are legal but no model has them; deeper than this is an attack on the stack.
const MAX_ARRAY_DEPTH: u32 = 4;

/// A metadata value. Strings and arrays stay in the map.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    String(Range<usize>),
    Array {
        kind: ValueKind,
        len: usize,
        range: Range<usize>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ValueKind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

/// One key and its value.
pub(super) fn read_entry(reader: &mut Reader<'_>) -> Result<(String, Value), String> {
    let key = reader.name(MAX_KEY_BYTES, "a metadata key")?;
    let value = reader.u32("a metadata kind").and_then(|kind| {
        let kind = value_kind(kind)?;
        read_value(reader, kind, 0)
    });
    match value {
        Ok(value) => Ok((key, value)),
        Err(reason) => Err(format!("`{key}`: {reason}")),
    }
}

fn read_value(reader: &mut Reader<'_>, kind: ValueKind, depth: u32) -> Result<Value, String> {
    const WHAT: &str = "a metadata value";
    Ok(match kind {
        ValueKind::U8 => Value::Unsigned(u64::from(reader.array::<1>(WHAT)?[0])),
        ValueKind::U16 => Value::Unsigned(u64::from(u16::from_le_bytes(reader.array(WHAT)?))),
        ValueKind::U32 => Value::Unsigned(u64::from(reader.u32(WHAT)?)),
        ValueKind::U64 => Value::Unsigned(reader.u64(WHAT)?),
        ValueKind::I8 => Value::Signed(i64::from(i8::from_le_bytes(reader.array(WHAT)?))),
        ValueKind::I16 => Value::Signed(i64::from(i16::from_le_bytes(reader.array(WHAT)?))),
        ValueKind::I32 => Value::Signed(i64::from(i32::from_le_bytes(reader.array(WHAT)?))),
        ValueKind::I64 => Value::Signed(i64::from_le_bytes(reader.array(WHAT)?)),
        ValueKind::F32 => Value::Float(f64::from(f32::from_le_bytes(reader.array(WHAT)?))),
        ValueKind::F64 => Value::Float(f64::from_le_bytes(reader.array(WHAT)?)),
        ValueKind::Bool => Value::Bool(reader.array::<1>(WHAT)?[0] != 0),
        ValueKind::String => Value::String(reader.string()?),
        ValueKind::Array => read_array(reader, depth)?,
    })
}

fn read_array(reader: &mut Reader<'_>, depth: u32) -> Result<Value, String> {
    if depth >= MAX_ARRAY_DEPTH {
        return Err(format!("lists are nested more than {MAX_ARRAY_DEPTH} deep"));
    }
    let kind = value_kind(reader.u32("a list's kind")?)?;
    let len = reader.u64("a list's length")?;
    // A string takes its length at least, a list its kind and length.
    let (least, fixed) = match kind {
        ValueKind::U8 | ValueKind::I8 | ValueKind::Bool => (1, true),
        ValueKind::U16 | ValueKind::I16 => (2, true),
        ValueKind::U32 | ValueKind::I32 | ValueKind::F32 => (4, true),
        ValueKind::U64 | ValueKind::I64 | ValueKind::F64 => (8, true),
        ValueKind::String => (8, false),
        ValueKind::Array => (12, false),
    };
    let size = len
        .checked_mul(least)
        .filter(|size| *size <= reader.rest() as u64);
    let (Some(size), Ok(len)) = (size, usize::try_from(len)) else {
        return Err(format!(
            "a list of {len} entries does not fit {} bytes",
            reader.rest()
        ));
    };
    let start = reader.position();
    if fixed {
        reader.take(size as usize, "a list")?; // it fits the rest, hence the address space
    } else {
        for _ in 0..len {
            read_value(reader, kind, depth + 1)?;
        }
    }
    Ok(Value::Array {
        kind,
        len,
        range: start..reader.position(),
    })
}

fn value_kind(kind: u32) -> Result<ValueKind, String> {
    const KINDS: [ValueKind; 13] = [
        ValueKind::U8,
        ValueKind::I8,
        ValueKind::U16,
        ValueKind::I16,
        ValueKind::U32,
        ValueKind::I32,
        ValueKind::F32,
        ValueKind::Bool,
        ValueKind::String,
        ValueKind::Array,
        ValueKind::U64,
        ValueKind::I64,
        ValueKind::F64,
    ];
    let known = usize::try_from(kind)
        .ok()
        .and_then(|kind| KINDS.get(kind).copied());
    known.ok_or_else(|| format!("metadata of the unknown kind {kind}"))
}
