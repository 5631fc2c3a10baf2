//! What `#[actor]` puts in the place of the function.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{format_ident, quote};
use syn::{Attribute, ItemFn, LitStr, Result};

use crate::options::Options;
use crate::signature::{Argument, Signature};

/// A type of the function's name that sends jobs, and with which a worker does them.
///
/// # Errors
///
/// The attribute or the function is not as it must be.
pub(crate) fn actor(attribute: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let options: Options = syn::parse2(attribute)?;
    let signature = Signature::read(syn::parse2::<ItemFn>(item)?)?;
    if let Some(schedule) = &options.scheduled
        && (!signature.arguments.is_empty() || options.encoding.is_some())
    {
        let why = "a job of an actor's own schedule is told nothing: for one with arguments there is \
                   Worker::schedule";
        return Err(syn::Error::new(schedule.span(), why));
    }
    let name = &signature.function.sig.ident;
    let visibility = &signature.function.vis;
    let is_doc = |attribute: &&Attribute| attribute.path().is_ident("doc");
    let docs = signature.function.attrs.iter().filter(is_doc);
    let (calls, implementation) = (calls(&signature), implementation(&signature, &options));
    // Only JSON has a place for an argument that comes later.
    let after = options.encoding.is_none().then(|| after(&signature)).flatten();
    Ok(quote! {
        #(#docs)*
        #[allow(non_camel_case_types)]
        #[derive(Debug, Clone, Copy)]
        #visibility struct #name;

        const _: () = {
            #implementation
            #calls
            #after
        };
    })
}

/// What one calls on the actor.
fn calls(signature: &Signature) -> TokenStream {
    let (actor, visibility) = (&signature.function.sig.ident, &signature.function.vis);
    let mut function = signature.function.clone();
    function.sig.ident = Ident::new("call", Span::call_site());
    function.attrs.retain(|attribute| !attribute.path().is_ident("doc"));
    let names: Vec<_> = signature.arguments.iter().map(|argument| &argument.name).collect();
    let parameters: Vec<_> = signature.arguments.iter().map(parameter).collect();
    let values = signature.arguments.iter().map(value);
    quote! {
        #[allow(clippy::too_many_arguments)]
        impl #actor {
            /// The function itself: runs here and now, and sends nothing.
            #function

            /// A job that can be given options before it is sent.
            #visibility fn with(#(#parameters),*) -> ::qbroker_worker::OutgoingJob {
                ::qbroker_worker::OutgoingJob::new(&Self, &__Arguments { #(#values),* })
            }

            /// Sends a job; it is on the broker's disk when this returns.
            ///
            /// # Errors
            ///
            /// It cannot be encoded, or the broker does not take it.
            #visibility async fn send(
                __broker: &::qbroker_worker::Broker,
                #(#parameters),*
            ) -> ::core::result::Result<::qbroker_worker::Receipt, ::qbroker_worker::SendError> {
                Self::with(#(#names),*).send(__broker).await
            }
        }
    }
}

/// A job whose first argument comes from the one before it.
fn after(signature: &Signature) -> Option<TokenStream> {
    let (first, rest) = signature.arguments.split_first()?;
    let (actor, visibility) = (&signature.function.sig.ident, &signature.function.vis);
    let key = first.key()?;
    let parameters: Vec<_> = rest.iter().map(parameter).collect();
    let values = rest.iter().map(value);
    let fields = rest.iter().map(field);
    Some(quote! {
        #[derive(::qbroker_worker::export::serde::Serialize)]
        #[serde(crate = "::qbroker_worker::export::serde")]
        struct __Rest { #(#fields),* }

        #[allow(clippy::too_many_arguments, dead_code)]
        impl #actor {
            /// A job whose first argument is what the one before it returned, or the results of the
            /// group that it completes.
            #visibility fn after(#(#parameters),*) -> ::qbroker_worker::OutgoingJob {
                ::qbroker_worker::OutgoingJob::following(&Self, #key, &__Rest { #(#values),* })
            }
        }
    })
}

fn value(argument: &Argument) -> TokenStream {
    let name = &argument.name;
    if argument.is_string() { quote!(#name: #name.into()) } else { quote!(#name) }
}

fn field(argument: &Argument) -> TokenStream {
    let Argument { name, kind, attributes } = argument;
    quote!(#(#attributes)* pub #name: #kind)
}

fn parameter(argument: &Argument) -> TokenStream {
    let Argument { name, kind, .. } = argument;
    if argument.is_string() {
        quote!(#name: impl ::core::convert::Into<#kind>)
    } else {
        quote!(#name: #kind)
    }
}

/// What a worker needs.
fn implementation(signature: &Signature, options: &Options) -> TokenStream {
    let actor = &signature.function.sig.ident;
    let own = LitStr::new(&actor.to_string(), actor.span());
    let name = options.name.as_ref().unwrap_or(&own);
    let encoding = options.encoding.as_ref();
    let encoding = encoding.map_or_else(|| quote!(::qbroker_worker::Json), |kind| quote!(#kind));
    let (fields, values): (Vec<_>, Vec<_>) = options.fields.iter().cloned().unzip();
    let arguments = arguments(&signature.arguments);
    let work = work(signature, options);
    quote! {
        #arguments

        impl ::qbroker_worker::Actor for #actor {
            const NAME: &'static str = #name;
            type Args = __Arguments;
            type Encoding = #encoding;

            fn options(&self) -> ::qbroker_worker::ActorOptions {
                #[allow(unused_mut)]
                let mut options = ::qbroker_worker::ActorOptions::default();
                #(options.#fields = #values;)*
                options
            }

            #work
        }
    }
}

/// The arguments as serde sees them.
fn arguments(arguments: &[Argument]) -> TokenStream {
    let fields = arguments.iter().map(field);
    quote! {
        #[doc(hidden)]
        #[allow(non_camel_case_types, unreachable_pub, missing_docs, missing_debug_implementations)]
        #[derive(
            ::qbroker_worker::export::serde::Serialize,
            ::qbroker_worker::export::serde::Deserialize,
        )]
        #[serde(crate = "::qbroker_worker::export::serde")]
        pub struct __Arguments { #(#fields),* }
    }
}

/// The function with the arguments that came, and what is thought of its error.
fn work(signature: &Signature, options: &Options) -> TokenStream {
    let names: Vec<_> = signature.arguments.iter().map(|argument| &argument.name).collect();
    let locals: Vec<_> = names.iter().map(|name| format_ident!("__{}", name)).collect();
    let context = signature.takes_context.then(|| quote!(__context.clone(),));
    let call = quote!(Self::call(#context #(#locals),*));
    let call = if signature.blocks() { call } else { quote!(#call.await) };
    let judged = judged(options);
    let body = quote! {
        #[allow(clippy::let_unit_value)]
        let __result = #call;
        #judged
    };
    let work = if signature.blocks() {
        quote!(::qbroker_worker::Work::of_function(move || { #body }))
    } else {
        quote!(::qbroker_worker::Work::of_future(async move { #body }))
    };
    quote! {
        fn work(
            &self,
            __context: ::qbroker_worker::Context,
            __arguments: __Arguments,
        ) -> ::qbroker_worker::Work {
            let __Arguments { #(#names: #locals),* } = __arguments;
            let _ = &__context;
            #work
        }
    }
}

fn judged(options: &Options) -> TokenStream {
    let mut hopeless = Vec::new();
    if let Some(patterns) = &options.throws {
        hopeless.push(quote!(match __error {
            #patterns => true,
            #[allow(unreachable_patterns)]
            _ => false,
        }));
    }
    if let Some(predicate) = &options.retry_when {
        hopeless.push(quote!(!(#predicate)(__context.failures(), __error)));
    }
    if hopeless.is_empty() {
        return quote!(::qbroker_worker::IntoJobResult::into_job_result(__result));
    }
    quote! {
        let __hopeless = match &__result {
            ::core::result::Result::Err(__error) => false #(|| #hopeless)*,
            ::core::result::Result::Ok(_) => false,
        };
        let __result = ::qbroker_worker::IntoJobResult::into_job_result(__result);
        if __hopeless { __result.map_err(::qbroker_worker::JobError::give_up) } else { __result }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(attribute: TokenStream, item: TokenStream) -> String {
        actor(attribute, item).expect_err("it is refused").to_string()
    }

    #[test]
    fn a_function_becomes_a_type_with_its_name_and_keeps_its_body() {
        let made = actor(
            quote!(queue = "mail", max_retries = 5, min_backoff = "1s", time_limit = "none"),
            quote! {
                /// Greets.
                pub async fn greet(ctx: Context, id: u64, name: String) -> Result<(), Bad> { work() }
            },
        );
        let made = made.expect("it is an actor").to_string();
        for part in [
            "pub struct greet ;",
            "const NAME : & 'static str = \"greet\"",
            "pub id : u64 , pub name : String",
            "name : impl :: core :: convert :: Into < String >",
            "options . max_retries = :: core :: option :: Option :: Some (5)",
            "options . min_backoff = :: core :: option :: Option :: Some (:: core :: time :: Duration :: from_millis (1000u64))",
            "options . time_limit = :: core :: option :: Option :: Some (:: core :: time :: Duration :: MAX)",
            "{ work () }",
        ] {
            assert!(made.contains(part), "{part:?} is not in {made}");
        }
    }

    #[test]
    fn what_cannot_be_an_actor_is_refused_with_the_reason() {
        let fine = || {
            quote!(
                async fn greet() {}
            )
        };
        for (attribute, item, told) in [
            (quote!(retries = 3), fine(), "there is no option retries; there are name, queue"),
            (quote!(queue = "a", queue = "b"), fine(), "queue is given twice"),
            (quote!(queue = "no blanks"), fine(), "\"no blanks\" cannot be a name here"),
            (quote!(priority = 10), fine(), "a priority is 0 to 9"),
            (quote!(time_limit = "soon"), fine(), "\"soon\" is no duration"),
            (quote!(throws()), fine(), "throws names patterns"),
            (quote!(schedule = "@daily", jitter = "a bit"), fine(), "\"a bit\" is no duration"),
            (
                quote!(schedule = "@daily"),
                quote!(
                    fn greet(name: String) {}
                ),
                "is told nothing",
            ),
            (
                quote!(),
                quote!(
                    fn greet<T>(what: T) {}
                ),
                "no generic parameters",
            ),
            (
                quote!(),
                quote!(
                    fn greet(&self) {}
                ),
                "a free function",
            ),
            (
                quote!(),
                quote!(
                    fn greet(name: &str) {}
                ),
                "an actor owns its arguments",
            ),
            (
                quote!(),
                quote!(
                    fn greet(id: u8, ctx: Context) {}
                ),
                "the context comes first",
            ),
            (
                quote!(),
                quote!(
                    fn greet((a, b): (u8, u8)) {}
                ),
                "an argument has a name",
            ),
            (
                quote!(),
                quote!(
                    unsafe fn greet() {}
                ),
                "safe to call",
            ),
        ] {
            let why = refused(attribute, item);
            assert!(why.contains(told), "{why:?} does not say {told:?}");
        }
    }
}
