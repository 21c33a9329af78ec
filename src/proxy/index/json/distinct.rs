//! JSON in which no object names a member twice, to any depth: what can be read in one way only.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Any value of that kind. Nothing of it is kept.
pub(super) struct Distinct;

/// The members of an object of that kind, in their order, each value as it was written.
pub(super) struct Members<'a>(Vec<(String, &'a str)>);

impl<'a> Members<'a> {
    pub(super) fn get(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find(|(member, _)| member == name).map(|(_, value)| *value)
    }

    /// Writes the object with another value for one of its members.
    pub(super) fn write_with(
        &self,
        name: &str,
        value: &str,
        output: &mut Vec<u8>,
    ) -> Result<(), serde_json::Error> {
        let mut before = b'{';
        for (member, written) in &self.0 {
            output.push(before);
            before = b',';
            write(member, output)?;
            output.push(b':');
            if member == name {
                write(value, output)?;
            } else {
                output.extend_from_slice(written.as_bytes());
            }
        }
        output.push(b'}');
        Ok(())
    }
}

fn write(text: &str, output: &mut Vec<u8>) -> Result<(), serde_json::Error> {
    text.serialize(&mut serde_json::Serializer::new(output))
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members: Vec<(String, &str)> = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    let value = map.next_value::<&RawValue>()?.get();
                    serde_json::from_str::<Distinct>(value).map_err(Error::custom)?;
                    if members.len() == MOST_MEMBERS || members.iter().any(|(before, _)| *before == name) {
                        return Err(twice());
                    }
                    members.push((name, value));
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

impl<'de> Deserialize<'de> for Distinct {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for Distinct {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Self, A::Error> {
        while array.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
        let mut names = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            map.next_value::<Self>()?;
            if !names.insert(name) {
                return Err(twice());
            }
        }
        Ok(self)
    }
}

fn twice<E: Error>() -> E {
    E::custom("an object names a member twice, or has more of them than any file's")
}

/// A file's object has a dozen.
const MOST_MEMBERS: usize = 256;
