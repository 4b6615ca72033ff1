//! A field of a request: its declaration says how it is read ([`Fields::read`](super::fields::Fields::read)) and how it is
//! described ([`Schema::fields`]).

use std::fmt::Display;
use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::fields::describe;
use super::schema::Schema;
use crate::workflow::limits;

/// A JSON object.
pub(super) type Object = Map<String, Value>;

/// Declares the fields of an object: each as a constant, and the list of them all.
macro_rules! fields {
    ($(#[$about:meta])* $list:ident: $($(#[$doc:meta])* $name:ident: $held:ty = $field:expr;)+) => {
        $($(#[$doc])* pub(super) const $name: $crate::dialect::field::Field<$held> = $field;)+
        $(#[$about])*
        pub(super) const $list: &[&dyn $crate::dialect::field::Described] = &[$(&$name),+];
    };
}
pub(super) use fields;

/// What a field can hold.
pub(super) trait Held: Sized {
    /// What is asked of it beside its type.
    type Rule;
    /// A usual value, as a constant holds it.
    type Usual: Copy + Into<Value>;

    /// Whether it is a number or a switch.
    const IS_PLAIN: bool = true;

    /// Reads it. The error says what it must be.
    fn read(value: Value, rule: &Self::Rule) -> Result<Self, String>;

    fn schema(rule: &Self::Rule) -> Schema;
}

/// A field of a request.
pub(super) struct Field<T: Held> {
    pub(super) name: &'static str,
    pub(super) rule: T::Rule,
    meaning: &'static str,
    usual: Option<T::Usual>,
    is_required: bool,
}

/// A whole number of a type, or any, in a range.
pub(super) const fn number<T: Held<Rule = RangeInclusive<T>>>(
    name: &'static str,
    range: RangeInclusive<T>,
) -> Field<T> {
    Field::new(name, range)
}

/// A field with a schema of its own. What it asks for beyond its type is for the reader to see to.
pub(super) const fn shaped<T: Held<Rule = fn() -> Schema>>(name: &'static str, schema: fn() -> Schema) -> Field<T> {
    Field::new(name, schema)
}

/// Any text.
pub(super) const fn text(name: &'static str) -> Field<String> {
    shaped(name, Schema::text)
}

/// `true` or `false`.
pub(super) const fn truth(name: &'static str) -> Field<bool> {
    Field::new(name, ())
}

/// A prompt; [`Fields::prompt`](super::fields::Fields::prompt) reads it.
pub(super) const fn prompt() -> Field<String> {
    let schema = || {
        Schema::text()
            .with("minLength", 1)
            .with("maxLength", limits::PROMPT_CHARS)
    };
    shaped("prompt", schema).means("What the picture shows.")
}

/// A seed.
pub(super) const fn seed(range: RangeInclusive<u64>) -> Field<Seed> {
    Field::new("seed", range).means("The seed of the noise; without it, or with -1, a random one.")
}

impl<T: Held> Field<T> {
    const fn new(name: &'static str, rule: T::Rule) -> Self {
        Self {
            name,
            rule,
            meaning: "",
            usual: None,
            is_required: false,
        }
    }

    /// What it means.
    pub(super) const fn means(mut self, meaning: &'static str) -> Self {
        self.meaning = meaning;
        self
    }

    /// What is in force where it is left out.
    pub(super) const fn or(mut self, usual: T::Usual) -> Self {
        self.usual = Some(usual);
        self
    }

    /// It must be there.
    pub(super) const fn required(mut self) -> Self {
        self.is_required = true;
        self
    }

    pub(super) fn meaning(&self) -> &'static str {
        self.meaning
    }

    pub(super) fn usual(&self) -> Option<T::Usual> {
        self.usual
    }
}

/// A field, whatever it holds.
pub(super) trait Described {
    fn name(&self) -> &'static str;
    fn schema(&self) -> Schema;
    fn is_required(&self) -> bool;
    /// Whether it is a number or a switch.
    fn is_plain(&self) -> bool;
}

impl<T: Held> Described for Field<T> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn schema(&self) -> Schema {
        let mut schema = T::schema(&self.rule);
        if !self.meaning.is_empty() {
            schema = schema.means(self.meaning);
        }
        match self.usual {
            Some(usual) => schema.or(usual),
            None => schema,
        }
    }

    fn is_required(&self) -> bool {
        self.is_required
    }

    fn is_plain(&self) -> bool {
        T::IS_PLAIN
    }
}

/// The names of fields.
pub(super) fn names(fields: &[&dyn Described]) -> Vec<&'static str> {
    fields.iter().map(|field| field.name()).collect()
}

/// A seed. [`None`]: any, for which -1 stands.
#[derive(Default)]
pub(super) struct Seed(pub(super) Option<u64>);

impl From<u64> for Seed {
    fn from(seed: u64) -> Self {
        Self(Some(seed))
    }
}

impl Held for Seed {
    type Rule = RangeInclusive<u64>;
    type Usual = u64;

    fn read(value: Value, range: &Self::Rule) -> Result<Self, String> {
        if value.as_f64() == Some(-1.0) {
            return Ok(Self(None));
        }
        u64::read(value, range).map(Self::from)
    }

    fn schema(range: &Self::Rule) -> Schema {
        Schema::integer(range).with("minimum", -1)
    }
}

macro_rules! whole_numbers {
    ($($number:ty),+) => {$(
        impl Held for $number {
            type Rule = RangeInclusive<Self>;
            type Usual = Self;

            fn read(value: Value, range: &Self::Rule) -> Result<Self, String> {
                let number = whole(&value).and_then(|number| Self::try_from(number).ok());
                number
                    .filter(|number| range.contains(number))
                    .ok_or_else(|| out_of("whole number", range, &value))
            }

            fn schema(range: &Self::Rule) -> Schema {
                Schema::integer(range)
            }
        }
    )+};
}
whole_numbers!(u8, u32, u64, i32);

/// Clients in languages with one number type send 8.0 for 8.
#[expect(clippy::cast_possible_truncation, reason = "whole and below 2^53, as checked before")]
fn whole(value: &Value) -> Option<i128> {
    let exact = value.as_u64().map(i128::from).or(value.as_i64().map(i128::from));
    let is_whole = |number: &f64| number.fract() == 0.0 && number.abs() < 9e15;
    exact.or_else(|| value.as_f64().filter(is_whole).map(|number| number as i128))
}

impl Held for f64 {
    type Rule = RangeInclusive<Self>;
    type Usual = Self;

    fn read(value: Value, range: &Self::Rule) -> Result<Self, String> {
        value
            .as_f64()
            .filter(|number| range.contains(number))
            .ok_or_else(|| out_of("number", range, &value))
    }

    fn schema(range: &Self::Rule) -> Schema {
        Schema::number(range)
    }
}

fn out_of(kind: &str, range: &RangeInclusive<impl Display>, value: &Value) -> String {
    let (low, high) = (range.start(), range.end());
    format!("must be a {kind} from {low} to {high}, not {}", describe(value))
}

impl Held for bool {
    type Rule = ();
    type Usual = Self;

    fn read(value: Value, (): &()) -> Result<Self, String> {
        value
            .as_bool()
            .ok_or_else(|| format!("must be true or false, not {}", describe(&value)))
    }

    fn schema((): &()) -> Schema {
        Schema::truth()
    }
}

macro_rules! shaped_values {
    ($($held:ty, $usual:ty, $pattern:pat => $read:expr, $what:literal;)+) => {$(
        impl Held for $held {
            type Rule = fn() -> Schema;
            type Usual = $usual;
            const IS_PLAIN: bool = false;

            fn read(value: Value, _: &Self::Rule) -> Result<Self, String> {
                match value {
                    $pattern => Ok($read),
                    other => Err(format!(concat!("must be ", $what, ", not {}"), describe(&other))),
                }
            }

            fn schema(schema: &Self::Rule) -> Schema {
                schema()
            }
        }
    )+};
}
shaped_values! {
    String, &'static str, Value::String(text) => text, "a string";
    Object, (), Value::Object(object) => object, "an object";
    Vec<Value>, (), Value::Array(items) => items, "a list";
}

/// Any value.
impl Held for Value {
    type Rule = fn() -> Schema;
    type Usual = ();
    const IS_PLAIN: bool = false;

    fn read(value: Value, _: &Self::Rule) -> Result<Self, String> {
        Ok(value)
    }

    fn schema(schema: &Self::Rule) -> Schema {
        schema()
    }
}
