//! What stands in the parentheses of `#[actor(...)]`.

use proc_macro2::TokenStream;
use quote::{ToTokens as _, quote};
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::{Error, Expr, Ident, Lit, LitStr, Pat, Path, Result, Token, Type, parenthesized};

use crate::duration;

/// The options that were given.
#[derive(Default)]
pub(crate) struct Options {
    /// The actor's name, where it is not the function's.
    pub(crate) name: Option<LitStr>,
    /// The type of its encoding, where it is not JSON.
    pub(crate) encoding: Option<Type>,
    /// Errors that no further attempt would mend.
    pub(crate) throws: Option<Pat>,
    /// When the broker sends a job by itself.
    pub(crate) scheduled: Option<LitStr>,
    /// Asked whether a further attempt makes sense.
    pub(crate) retry_when: Option<Expr>,
    /// Assignments to the fields of `ActorOptions`: the field and its value.
    pub(crate) fields: Vec<(Ident, TokenStream)>,
}

/// What can be given, for whoever gives something else.
const KNOWN: &str = "name, queue, priority, max_retries, min_backoff, max_backoff, time_limit, \
                     max_age, notify_shutdown, store_results, result_ttl, throws(...), retry_when, \
                     on_success, on_failure, on_exhausted, schedule, time_zone, catch_up, jitter, \
                     skip_if_unfinished, encoding";

/// The largest priority that the broker has.
const PRIORITY_MAX: u8 = 9;

impl Parse for Options {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let mut options = Self::default();
        let mut seen: Vec<Ident> = Vec::new();
        while !input.is_empty() {
            let name: Ident = input.parse()?;
            if seen.contains(&name) {
                return Err(Error::new(name.span(), format!("{name} is given twice")));
            }
            options.take(&name, input)?;
            seen.push(name);
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        Ok(options)
    }
}

impl Options {
    fn take(&mut self, name: &Ident, input: ParseStream<'_>) -> Result<()> {
        match name.to_string().as_str() {
            "name" => self.name = Some(checked(assigned(input)?, 256, |_| true)?),
            "queue" => {
                let queue = checked(assigned(input)?, 120, is_queue_name)?;
                self.set(name, quote!(::std::borrow::Cow::Borrowed(#queue)));
            }
            "schedule" => {
                let cron = checked(assigned(input)?, 256, |_| true)?;
                self.scheduled = Some(cron.clone());
                let cron = quote!(::std::borrow::Cow::Borrowed(#cron));
                self.set(name, quote!(::core::option::Option::Some(#cron)));
            }
            "time_zone" => {
                let zone = checked(assigned(input)?, 256, |_| true)?;
                self.set(name, quote!(::std::borrow::Cow::Borrowed(#zone)));
            }
            "priority" => self.set(name, priority(&assigned(input)?)?),
            "max_retries" => {
                let unlimited = quote!(::core::primitive::u32::MAX);
                let retries = limit(&assigned(input)?, ("unlimited", unlimited), |retries| {
                    Ok(retries.to_token_stream())
                });
                self.set(name, some(retries?))
            }
            "min_backoff" | "max_backoff" | "result_ttl" => {
                self.set(name, some(duration(&assigned(input)?)?))
            }
            "jitter" => self.set(name, duration(&assigned(input)?)?),
            "catch_up" => self.set(name, assigned::<Expr>(input)?.to_token_stream()),
            "time_limit" | "max_age" => {
                let none = quote!(::core::time::Duration::MAX);
                self.set(name, some(limit(&assigned(input)?, ("none", none), duration)?))
            }
            "notify_shutdown" | "store_results" => self.set(name, some(flag(input)?)),
            "skip_if_unfinished" => self.set(name, flag(input)?),
            "on_success" | "on_failure" | "on_exhausted" => {
                let actor: Path = assigned(input)?;
                self.set(name, quote!(::core::option::Option::Some(#actor::with)));
            }
            "retry_when" => self.retry_when = Some(assigned(input)?),
            "encoding" => self.encoding = Some(assigned(input)?),
            "throws" => self.throws = Some(patterns(input)?),
            _ => {
                return Err(Error::new(
                    name.span(),
                    format!("there is no option {name}; there are {KNOWN}"),
                ));
            }
        }
        Ok(())
    }

    fn set(&mut self, field: &Ident, value: TokenStream) {
        self.fields.push((field.clone(), value));
    }
}

/// What stands behind `=`.
fn assigned<T: Parse>(input: ParseStream<'_>) -> Result<T> {
    input.parse::<Token![=]>()?;
    input.parse()
}

/// A value that was given.
fn some(value: TokenStream) -> TokenStream {
    quote!(::core::option::Option::Some(#value))
}

/// What stands behind `=`, or nothing, which is a yes.
fn flag(input: ParseStream<'_>) -> Result<TokenStream> {
    match input.peek(Token![=]) {
        true => Ok(assigned::<Expr>(input)?.to_token_stream()),
        false => Ok(quote!(true)),
    }
}

/// A text that is not empty, not too long, and right.
fn checked(text: LitStr, bytes_max: usize, right: impl Fn(&str) -> bool) -> Result<LitStr> {
    let value = text.value();
    if value.is_empty() || bytes_max < value.len() || !right(&value) {
        return Err(Error::new(text.span(), format!("{value:?} cannot be a name here")));
    }
    Ok(text)
}

fn is_queue_name(name: &str) -> bool {
    let word = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    name.starts_with(word) && name.chars().all(|letter| word(letter) || ".-".contains(letter))
}

fn priority(value: &Expr) -> Result<TokenStream> {
    if let Expr::Lit(literal) = value
        && let Lit::Int(number) = &literal.lit
        && !number.base10_parse::<u8>().is_ok_and(|number| number <= PRIORITY_MAX)
    {
        return Err(Error::new(number.span(), format!("a priority is 0 to {PRIORITY_MAX}")));
    }
    Ok(value.to_token_stream())
}

/// A duration: a text of ours, or an expression.
fn duration(value: &Expr) -> Result<TokenStream> {
    let Some(text) = text(value) else { return Ok(value.to_token_stream()) };
    let duration = duration::parse(&text.value()).map_err(|why| Error::new(text.span(), why))?;
    let millis = u64::try_from(duration.as_millis()).expect("it was parsed as one");
    Ok(quote!(::core::time::Duration::from_millis(#millis)))
}

/// A limit, or the word for none and what stands for that.
fn limit(
    value: &Expr,
    (word, none): (&str, TokenStream),
    some: impl Fn(&Expr) -> Result<TokenStream>,
) -> Result<TokenStream> {
    match text(value) {
        Some(text) if text.value() == word => Ok(none),
        _ => some(value),
    }
}

fn text(value: &Expr) -> Option<&LitStr> {
    match value {
        Expr::Lit(literal) => match &literal.lit {
            Lit::Str(text) => Some(text),
            _ => None,
        },
        _ => None,
    }
}

/// Patterns in parentheses, separated by commas or bars.
fn patterns(input: ParseStream<'_>) -> Result<Pat> {
    let content;
    parenthesized!(content in input);
    let all = Punctuated::<Pat, Token![,]>::parse_terminated_with(&content, Pat::parse_multi)?;
    if all.is_empty() {
        return Err(content.error("throws names patterns of the error type"));
    }
    let cases = all.into_iter();
    Ok(syn::parse_quote!(#(#cases)|*))
}
