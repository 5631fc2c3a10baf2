//! Requests made of the protocol's own description: every call, with fields of every kind.

use std::collections::HashMap;
use std::sync::OnceLock;

use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};

use super::mutate::varint;
use crate::seed::Rng;

/// One call of the protocol.
#[derive(Clone, Debug)]
pub struct Method {
    /// As HTTP names it.
    pub path: String,
    /// Its request's type.
    pub request: String,
    /// Whether the client sends many.
    pub streams: bool,
}

/// Everything that the protocol says of itself.
#[derive(Debug)]
pub struct Protocol {
    pub methods: Vec<Method>,
    messages: HashMap<String, DescriptorProto>,
    enums: HashMap<String, Vec<i32>>,
}

/// How deep messages within messages are filled.
const DEPTH_MAX: usize = 5;

const NAMES: [&str; 12] = [
    "q",
    "q",
    "q",
    "q",
    "q.dead",
    "work",
    "s",
    "key",
    "",
    "not a name",
    "*/5 * * * *",
    "Europe/Berlin",
];
const NUMBERS: [i64; 12] = [0, 1, 1, 2, 3, 10, 60, 1_000, -1, i32::MAX as i64, i64::MAX, i64::MIN];

/// The protocol, read once.
///
/// # Panics
/// When its description cannot be read.
pub fn protocol() -> &'static Protocol {
    static PROTOCOL: OnceLock<Protocol> = OnceLock::new();
    PROTOCOL.get_or_init(|| {
        let files = FileDescriptorSet::decode(qbroker_proto::FILE_DESCRIPTOR_SET);
        Protocol::new(files.expect("it was compiled with the program"))
    })
}

impl Protocol {
    fn new(files: FileDescriptorSet) -> Self {
        let (methods, messages, enums) = (Vec::new(), HashMap::new(), HashMap::new());
        let mut protocol = Self { methods, messages, enums };
        for file in files.file {
            let package = file.package().to_owned();
            for service in &file.service {
                protocol.methods.extend(service.method.iter().map(|method| Method {
                    path: format!("/{package}.{}/{}", service.name(), method.name()),
                    request: method.input_type().to_owned(),
                    streams: method.client_streaming(),
                }));
            }
            let within = format!(".{package}");
            protocol.add_enums(&within, &file.enum_type);
            file.message_type.into_iter().for_each(|message| protocol.add(&within, message));
        }
        protocol
    }

    fn add(&mut self, within: &str, message: DescriptorProto) {
        let name = format!("{within}.{}", message.name());
        self.add_enums(&name, &message.enum_type);
        for nested in message.nested_type.clone() {
            self.add(&name, nested);
        }
        self.messages.insert(name, message);
    }

    fn add_enums(&mut self, within: &str, enums: &[prost_types::EnumDescriptorProto]) {
        for it in enums {
            let numbers = it.value.iter().map(prost_types::EnumValueDescriptorProto::number);
            self.enums.insert(format!("{within}.{}", it.name()), numbers.collect());
        }
    }

    /// A message of this type, encoded, with fields that chance chooses: right in form, mostly
    /// plausible.
    ///
    /// # Panics
    /// When there is no such type.
    pub fn message(&self, name: &str, rng: &mut Rng) -> Vec<u8> {
        self.message_within(name, 0, rng)
    }

    fn message_within(&self, name: &str, depth: usize, rng: &mut Rng) -> Vec<u8> {
        let message = self.messages.get(name).unwrap_or_else(|| panic!("no {name}"));
        let chosen: Vec<usize> =
            message.oneof_decl.iter().map(|_| rng.below(message.field.len())).collect();
        let mut bytes = Vec::new();
        for (at, field) in message.field.iter().enumerate() {
            let wanted = match field.oneof_index {
                // One of them at most, as chance would have it.
                Some(one) => {
                    let of_one = usize::try_from(one).expect("it is an index");
                    let last = message.field.iter().rposition(|it| it.oneof_index == Some(one));
                    at == chosen[of_one] || (last == Some(at) && chosen[of_one] < at / 2)
                }
                None => rng.below(2) == 0,
            };
            let times = match field.label() {
                Label::Repeated => 1 + rng.below(3),
                Label::Optional | Label::Required => 1,
            };
            for _ in 0..if wanted { times } else { 0 } {
                self.field(field, depth, rng, &mut bytes);
            }
        }
        bytes
    }

    fn field(&self, field: &FieldDescriptorProto, depth: usize, rng: &mut Rng, to: &mut Vec<u8>) {
        let number = NUMBERS[rng.below(NUMBERS.len())];
        let (wire, value) = match field.r#type() {
            Type::String => (2, NAMES[rng.below(NAMES.len())].as_bytes().to_vec()),
            Type::Bytes => (2, vec![b'p'; rng.below(40)]),
            Type::Message if DEPTH_MAX <= depth => return,
            Type::Message => (2, self.message_within(field.type_name(), depth + 1, rng)),
            Type::Enum => {
                let known = &self.enums[field.type_name()];
                (0, varint(i64::from(known[rng.below(known.len())]).cast_unsigned()))
            }
            Type::Bool => (0, varint(rng.below(2) as u64)),
            Type::Double | Type::Fixed64 | Type::Sfixed64 => (1, number.to_le_bytes().to_vec()),
            Type::Float | Type::Fixed32 | Type::Sfixed32 => (5, number.to_le_bytes()[..4].to_vec()),
            Type::Sint32 | Type::Sint64 => {
                (0, varint((number << 1 ^ number >> 63).cast_unsigned()))
            }
            Type::Int32 | Type::Int64 | Type::Uint32 | Type::Uint64 | Type::Group => {
                (0, varint(number.cast_unsigned()))
            }
        };
        let tag = u64::try_from(field.number()).expect("tags are positive");
        to.extend(varint(tag << 3 | wire));
        if wire == 2 {
            to.extend(varint(value.len() as u64));
        }
        to.extend(value);
    }
}
