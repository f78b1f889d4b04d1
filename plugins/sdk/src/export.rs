//! [`export!`](crate::export!): from a type with the stages' traits to the component's
//! exports.

use core::cell::RefCell;
use core::marker::PhantomData;

use crate::bindings::{
    Action, Chat, Context, Delta, Failure, FinishReason, GuestProcessor, ObserverGuest, Prompt,
    Refusal, ResponderGuest, Summary, TemplateGuest, ValidatorGuest, Verdict,
};
use crate::host::install_panic_hook;
use crate::stage::{Observer, Responder, Template, Validator};

/// Exports a plugin's stages from the component, and its name and version.
///
/// Each stage is named once, with the type that implements its trait: `validator:` a
/// [`Validator`], `template:` a [`Template`], `responder:` a [`Responder`], `observer:` an
/// [`Observer`].
///
/// ```
/// # use gapura_plugin_sdk::*;
/// # struct Redact;
/// # impl Validator for Redact {
/// #     fn validate(_: Chat) -> Result<Verdict, Failure> { Ok(Verdict::Accept) }
/// # }
/// # impl Responder for Redact {
/// #     fn new(_: Context) -> Self { Self }
/// #     fn push(&mut self, delta: Delta) -> Action { Action::Emit(delta.text) }
/// # }
/// gapura_plugin_sdk::export!(validator: Redact, responder: Redact);
/// # fn main() {}
/// ```
///
/// The crate's name and version, as `name@version`, go into the custom section
/// `gapura:plugin` of the component's core module. Outside WebAssembly the macro only
/// checks that the types implement the traits.
#[macro_export]
macro_rules! export {
    ($($stage:ident: $plugin:ty),+ $(,)?) => {
        $( $crate::__export_stage!($stage: $plugin); )+

        #[cfg(target_arch = "wasm32")]
        const _: () = {
            const NAME: &str = concat!(env!("CARGO_PKG_NAME"), "@", env!("CARGO_PKG_VERSION"));
            #[used]
            #[unsafe(link_section = "gapura:plugin")]
            static SECTION: [u8; NAME.len()] = $crate::__private::name_section(NAME);
        };
    };
}

/// One stage of [`export!`](crate::export!).
#[doc(hidden)]
#[macro_export]
macro_rules! __export_stage {
    (validator: $plugin:ty) => {
        const _: () = {
            type Exported = $crate::__private::ExportedValidator<$plugin>;
            $crate::__check_or_export!(Exported, validator, export_validator);
        };
    };
    (template: $plugin:ty) => {
        const _: () = {
            type Exported = $crate::__private::ExportedTemplate<$plugin>;
            $crate::__check_or_export!(Exported, template, export_template);
        };
    };
    (responder: $plugin:ty) => {
        const _: () = {
            type Exported = $crate::__private::ExportedResponder<$plugin>;
            $crate::__check_or_export!(Exported, responder, export_responder);
        };
    };
    (observer: $plugin:ty) => {
        const _: () = {
            type Exported = $crate::__private::ExportedObserver<$plugin>;
            $crate::__check_or_export!(Exported, observer, export_observer);
        };
    };
    ($other:ident: $plugin:ty) => {
        compile_error!(concat!(
            "no stage `",
            stringify!($other),
            "`: the stages are validator, template, responder and observer"
        ));
    };
}

/// The real exports on WebAssembly; elsewhere only the mention that checks the types.
#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
#[macro_export]
macro_rules! __check_or_export {
    ($exported:ident, $world:ident, $macro:ident) => {
        $crate::__private::$world::$macro!($exported with_types_in $crate::__private::$world);
    };
}

/// The real exports on WebAssembly; elsewhere only the mention that checks the types.
#[cfg(not(target_arch = "wasm32"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __check_or_export {
    ($exported:ident, $world:ident, $macro:ident) => {
        const _: fn() -> $exported = $exported::new;
    };
}

/// The bytes of `name`, for the custom section.
///
/// # Panics
/// At compile time, where `N` is not the length of `name`.
pub const fn name_section<const N: usize>(name: &str) -> [u8; N] {
    match name.as_bytes().first_chunk::<N>() {
        Some(bytes) => *bytes,
        None => panic!("N is the name's length"),
    }
}

/// Makes a [`Validator`] what the bindings export.
pub struct ExportedValidator<T>(PhantomData<T>);

/// Makes a [`Template`] what the bindings export.
pub struct ExportedTemplate<T>(PhantomData<T>);

/// Makes a [`Responder`] what the bindings export.
pub struct ExportedResponder<T>(PhantomData<T>);

/// Makes an [`Observer`] what the bindings export.
pub struct ExportedObserver<T>(PhantomData<T>);

impl<T: Validator> ExportedValidator<T> {
    /// Exists so that a native build checks the bound.
    #[expect(clippy::new_without_default, reason = "never made in a component")]
    pub const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<T: Template> ExportedTemplate<T> {
    /// Exists so that a native build checks the bound.
    #[expect(clippy::new_without_default, reason = "never made in a component")]
    pub const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<T: Responder> ExportedResponder<T> {
    /// Exists so that a native build checks the bound.
    #[expect(clippy::new_without_default, reason = "never made in a component")]
    pub const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<T: Observer> ExportedObserver<T> {
    /// Exists so that a native build checks the bound.
    #[expect(clippy::new_without_default, reason = "never made in a component")]
    pub const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<T: Validator> ValidatorGuest for ExportedValidator<T> {
    fn validate(chat: Chat) -> Result<Verdict, Failure> {
        install_panic_hook();
        T::validate(chat)
    }
}

impl<T: Template> TemplateGuest for ExportedTemplate<T> {
    fn render(chat: Chat) -> Result<Prompt, Refusal> {
        install_panic_hook();
        T::render(chat)
    }
}

impl<T: Observer> ObserverGuest for ExportedObserver<T> {
    fn completed(summary: Summary) {
        install_panic_hook();
        T::completed(summary);
    }
}

impl<T: Responder> ResponderGuest for ExportedResponder<T> {
    type Processor = ExportedProcessor<T>;
}

/// One answer's [`Responder`]. The bindings hand out shared references; a component's calls
/// never overlap, so the cell is never borrowed twice.
pub struct ExportedProcessor<T>(RefCell<T>);

impl<T: Responder> GuestProcessor for ExportedProcessor<T> {
    fn new(context: Context) -> Self {
        install_panic_hook();
        Self(RefCell::new(T::new(context)))
    }

    fn push(&self, delta: Delta) -> Action {
        self.0.borrow_mut().push(delta)
    }

    fn finish(&self, reason: FinishReason) -> Action {
        self.0.borrow_mut().finish(reason)
    }
}
