//! The function behind an actor: which arguments it has, and whether it blocks.

use syn::ext::IdentExt as _;
use syn::spanned::Spanned as _;
use syn::{Attribute, Error, FnArg, Ident, ItemFn, Pat, Result, ReturnType, Safety, Type};

/// A function that can be an actor.
pub(crate) struct Signature {
    /// The function, without the attributes that belong to the arguments.
    pub(crate) function: ItemFn,
    /// Its first argument is the job's context.
    pub(crate) takes_context: bool,
    /// What is sent.
    pub(crate) arguments: Vec<Argument>,
}

/// One argument of a job.
pub(crate) struct Argument {
    /// What it is called, here and in the encoded message.
    pub(crate) name: Ident,
    /// What it is.
    pub(crate) kind: Type,
    /// How serde treats it.
    pub(crate) attributes: Vec<Attribute>,
}

impl Argument {
    /// What it is called in the encoded message, where nothing says otherwise.
    pub(crate) fn key(&self) -> Option<String> {
        let renames = |attribute: &Attribute| match &attribute.meta {
            syn::Meta::List(list) => list.tokens.to_string().contains("rename"),
            _ => false,
        };
        let is_renamed = self.attributes.iter().any(renames);
        (!is_renamed).then(|| self.name.unraw().to_string())
    }

    /// Whether callers may hand in whatever becomes a string.
    pub(crate) fn is_string(&self) -> bool {
        last_word(&self.kind).is_some_and(|word| word == "String")
    }
}

impl Signature {
    /// Reads a function.
    ///
    /// # Errors
    ///
    /// It cannot be an actor.
    pub(crate) fn read(mut function: ItemFn) -> Result<Self> {
        refuse_unusual(&function)?;
        let mut arguments = Vec::new();
        let mut takes_context = false;
        for (position, input) in function.sig.inputs.iter_mut().enumerate() {
            let FnArg::Typed(input) = input else {
                return Err(Error::new(input.span(), "an actor is a free function"));
            };
            if last_word(&input.ty).is_some_and(|word| word == "Context") {
                if position != 0 {
                    return Err(Error::new(input.span(), "the context comes first"));
                }
                takes_context = true;
                continue;
            }
            if let Type::Reference(reference) = &*input.ty {
                let why = "an actor owns its arguments: they come out of a message";
                return Err(Error::new(reference.span(), why));
            }
            let Pat::Ident(name) = &*input.pat else {
                return Err(Error::new(input.pat.span(), "an argument has a name"));
            };
            let (name, kind) = (name.ident.clone(), (*input.ty).clone());
            arguments.push(Argument { name, kind, attributes: std::mem::take(&mut input.attrs) });
        }
        Ok(Self { function, takes_context, arguments })
    }

    /// Whether it needs a thread of its own.
    pub(crate) fn blocks(&self) -> bool {
        self.function.sig.asyncness.is_none()
    }
}

fn refuse_unusual(function: &ItemFn) -> Result<()> {
    let signature = &function.sig;
    let refused = |span, why| Err(Error::new(span, why));
    if !signature.generics.params.is_empty() || signature.generics.where_clause.is_some() {
        return refused(signature.generics.span(), "an actor has no generic parameters");
    }
    if let Safety::Unsafe(word) = &signature.safety {
        return refused(word.span(), "an actor is safe to call");
    }
    if let Some(abi) = &signature.abi {
        return refused(abi.span(), "an actor has no ABI of its own");
    }
    if let ReturnType::Type(_, kind) = &signature.output
        && let Type::Tuple(tuple) = &**kind
        && !tuple.elems.is_empty()
    {
        return refused(kind.span(), "an actor returns nothing, or a Result");
    }
    Ok(())
}

/// The last word of a path: `String` of `std::string::String`.
fn last_word(kind: &Type) -> Option<&Ident> {
    match kind {
        Type::Path(path) => path.path.segments.last().map(|segment| &segment.ident),
        _ => None,
    }
}
