//! [`Gemm`](crate::device::Gemm) by cuBLASLt.
//!
//! The library counts in columns. A row-major matrix `[r, c]` with rows `s` apart is, to it, the
//! matrix of `c` rows and `r` columns with columns `s` apart: the transpose. So it is asked for
//! `out^T = w' x^T`, where `x^T` (`k` by `n`) and `out^T` (`m` by `n`) are what lies in memory, and
//! `w'` (`m` by `k`) is what lies there if w is `[k, m]`, and its transpose if w is `[m, k]`.
//!
//! Of the products that share a w, one each makes a batch with even steps: w_shared batches.

use std::{
    collections::{HashMap, hash_map::Entry},
    ffi::c_void,
};

use cudarc::cublaslt::sys::{
    self, cublasComputeType_t, cublasLtHandle_t, cublasLtMatmulDesc_t,
    cublasLtMatmulDescAttributes_t, cublasLtMatmulHeuristicResult_t, cublasLtMatmulPreference_t,
    cublasLtMatmulPreferenceAttributes_t, cublasLtMatrixLayout_t, cublasLtMatrixLayoutAttribute_t,
    cublasStatus_t, cudaDataType,
};

use super::{
    driver::{Context, Driver, Stream},
    memory::DeviceMemory,
};
use crate::device::{self, DeviceError, Precision};

const LIBRARY: &str = "libcublasLt.so";

/// Memory that the library may use for one product.
const WORKSPACE_BYTES: u64 = 32 << 20;

/// Shapes whose plans are kept. Prompts of all lengths come by; a plan is made in microseconds.
const MAX_PLANS: usize = 1024;

/// cublasOperation_t, which is cuBLAS's: the first factor as it lies in memory, or transposed.
const OP_N: i32 = 0;
const OP_T: i32 = 1;

/// Everything that is called here. cudarc panics where one is missing.
const FUNCTIONS: [&str; 14] = [
    "cublasLtCreate",
    "cublasLtDestroy",
    "cublasLtGetVersion",
    "cublasLtMatmul",
    "cublasLtMatmulAlgoGetHeuristic",
    "cublasLtMatmulDescCreate",
    "cublasLtMatmulDescDestroy",
    "cublasLtMatmulDescSetAttribute",
    "cublasLtMatmulPreferenceCreate",
    "cublasLtMatmulPreferenceDestroy",
    "cublasLtMatmulPreferenceSetAttribute",
    "cublasLtMatrixLayoutCreate",
    "cublasLtMatrixLayoutDestroy",
    "cublasLtMatrixLayoutSetAttribute",
];

/// Calls a function of the library and turns its status into a [`DeviceError`] with its name.
macro_rules! blas {
    ($function:ident($($argument:expr),* $(,)?)) => {
        succeeded(stringify!($function), sys::$function($($argument),*))
    };
}

fn succeeded(call: &'static str, status: cublasStatus_t) -> Result<(), DeviceError> {
    match status {
        cublasStatus_t::CUBLAS_STATUS_SUCCESS => Ok(()),
        status => Err(DeviceError::Driver {
            call,
            reason: format!("{status:?}"),
            // The library does not tell.
            is_sticky: false,
        }),
    }
}

/// Looks for the library; its version, as it counts it.
pub(super) fn load() -> Result<usize, DeviceError> {
    // SAFETY: the library runs nothing but its own initialization when it is loaded.
    if !unsafe { sys::is_culib_present() } {
        return Err(DeviceError::Library {
            library: LIBRARY,
            advice:
                "it comes with the CUDA toolkit, or by `pip install nvidia-cublas`; its folder \
                     must be in LD_LIBRARY_PATH"
                    .to_owned(),
        });
    }
    // SAFETY: the symbols are only looked for; their type plays no part.
    let has = |name: &str| unsafe { sys::culib().get::<*const c_void>(name) }.is_ok();
    if let Some(name) = FUNCTIONS.into_iter().find(|name| !has(name)) {
        return Err(DeviceError::Unusable {
            reason: format!("{LIBRARY} has no {name}: that of CUDA 12 or 13 is needed"),
        });
    }
    // SAFETY: the function is there and takes nothing.
    Ok(unsafe { sys::cublasLtGetVersion() })
}

/// Looks for the library, and whether it works with a driver.
pub(super) fn load_for(driver: Driver) -> Result<usize, DeviceError> {
    let version = load()?;
    let major = i32::try_from(version / 10_000).unwrap_or(i32::MAX);
    driver.check_library(
        &format!("cuBLASLt, version {version},"),
        major,
        "nvidia-cublas",
    )?;
    Ok(version)
}

/// The library in a context.
pub(super) struct GemmLibrary {
    plans: HashMap<Shape, Plan>,
    precision: Precision,
    workspace: DeviceMemory,
    handle: Handle,
}

/// A batch of products with even steps: all that decides how it is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Shape {
    n: u32,
    m: u32,
    k: u32,
    x_stride: u32,
    w_stride: u32,
    out_stride: u32,
    count: u32,
    x_step: u64,
    w_step: u64,
    out_step: u64,
    w_is_kn: bool,
    out_is_f32: bool,
    allow_tf32: bool,
    /// Of all addresses, in bytes, up to 256.
    alignment: u32,
}

/// A batch and where it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Batch {
    shape: Shape,
    x: u64,
    w: u64,
    out: u64,
}

/// The batches of even steps that a [`Gemm`](device::Gemm) consists of.
fn batches(p: &device::Gemm, precision: Precision) -> impl Iterator<Item = Batch> {
    let p = *p;
    let act_bytes = precision.bytes();
    let out_bytes = if p.out_is_f32 == 0 { act_bytes } else { 4 };
    let shared = p.w_shared.max(1);
    let is_empty = p.n == 0 || p.m == 0;
    let batches = if is_empty { 0 } else { shared.min(p.batch) };
    (0..batches).map(move |first| {
        let count = (p.batch - first).div_ceil(shared);
        // Steps that are never taken make no difference.
        let step = |step: u64| if count == 1 { 0 } else { step };
        let x = p.x.0 + u64::from(first) * p.x_batch_stride * act_bytes;
        let out = p.out.0 + u64::from(first) * p.out_batch_stride * out_bytes;
        Batch {
            shape: Shape {
                n: p.n,
                m: p.m,
                k: p.k,
                x_stride: p.x_stride,
                w_stride: p.w_stride,
                out_stride: p.out_stride,
                count,
                x_step: step(p.x_batch_stride * u64::from(shared)),
                w_step: step(p.w_batch_stride),
                out_step: step(p.out_batch_stride * u64::from(shared)),
                w_is_kn: p.w_is_kn != 0,
                out_is_f32: p.out_is_f32 != 0 || precision == Precision::F32,
                allow_tf32: p.allow_tf32 != 0 && precision == Precision::F32,
                alignment: 1 << (x | p.w.0 | out).trailing_zeros().min(8),
            },
            x,
            w: p.w.0,
            out,
        }
    })
}

impl GemmLibrary {
    pub(super) fn new(context: &Context, precision: Precision) -> Result<Self, DeviceError> {
        load()?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: the library stores a handle, for this thread's context.
        unsafe { blas!(cublasLtCreate(&raw mut handle)) }?;
        let handle = Handle(handle);
        Ok(Self {
            plans: HashMap::new(),
            precision,
            workspace: DeviceMemory::new(context, WORKSPACE_BYTES)?,
            handle,
        })
    }

    /// Makes the plans of a product, so that queueing it only queues.
    pub(super) fn prepare(&mut self, gemm: &device::Gemm) -> Result<(), DeviceError> {
        batches(gemm, self.precision).try_for_each(|batch| self.plan(batch.shape).map(|_| ()))
    }

    /// Queues a product.
    pub(super) fn queue(
        &mut self,
        gemm: &device::Gemm,
        stream: &Stream,
    ) -> Result<(), DeviceError> {
        let (handle, workspace) = (self.handle.0, self.workspace.address());
        for batch in batches(gemm, self.precision) {
            let plan = self.plan(batch.shape)?;
            let (one, zero) = (1_f32, 0_f32);
            // SAFETY: handle and plan live. The factors are float32, which is the plan's type, and
            // are read before the call returns. The other pointers are addresses on the device,
            // where none of this process's memory is but pinned buffers, which no plan names.
            unsafe {
                blas!(cublasLtMatmul(
                    handle,
                    plan.product.0,
                    (&raw const one).cast(),
                    batch.w as *const c_void,
                    plan.w.0,
                    batch.x as *const c_void,
                    plan.x.0,
                    (&raw const zero).cast(),
                    batch.out as *const c_void,
                    plan.out.0,
                    batch.out as *mut c_void,
                    plan.out.0,
                    &raw const plan.choice.algo,
                    workspace as *mut c_void,
                    plan.choice.workspaceSize,
                    stream.raw().cast(),
                ))
            }?;
        }
        Ok(())
    }

    fn plan(&mut self, shape: Shape) -> Result<&Plan, DeviceError> {
        if self.plans.len() >= MAX_PLANS && !self.plans.contains_key(&shape) {
            self.plans.clear();
        }
        match self.plans.entry(shape) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => {
                // A plan is made without the device.
                let plan = Plan::new(&self.handle, shape, self.precision);
                Ok(entry.insert(plan.map_err(DeviceError::into_refusal)?))
            }
        }
    }
}

/// How a [`Shape`] is computed.
struct Plan {
    product: Product,
    x: Layout,
    w: Layout,
    out: Layout,
    choice: cublasLtMatmulHeuristicResult_t,
}

impl Plan {
    fn new(handle: &Handle, shape: Shape, precision: Precision) -> Result<Self, DeviceError> {
        let act = match precision {
            Precision::Bf16 => cudaDataType::CUDA_R_16BF,
            Precision::F32 => cudaDataType::CUDA_R_32F,
        };
        let out_type = if shape.out_is_f32 {
            cudaDataType::CUDA_R_32F
        } else {
            act
        };
        let compute = if shape.allow_tf32 {
            cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32
        } else {
            cublasComputeType_t::CUBLAS_COMPUTE_32F
        };
        let (w_rows, w_columns, operation) = if shape.w_is_kn {
            (shape.m, shape.k, OP_N)
        } else {
            (shape.k, shape.m, OP_T)
        };
        let product = Product::new(compute, operation)?;
        let count = shape.count;
        let x = Layout::new(act, [shape.k, shape.n], shape.x_stride, count, shape.x_step)?;
        let w = Layout::new(
            act,
            [w_rows, w_columns],
            shape.w_stride,
            count,
            shape.w_step,
        )?;
        let out = Layout::new(
            out_type,
            [shape.m, shape.n],
            shape.out_stride,
            count,
            shape.out_step,
        )?;
        let choice = Preference::new(shape.alignment)?.choose(handle, &product, &w, &x, &out)?;
        let choice = choice.ok_or_else(|| DeviceError::Refused {
            call: "cublasLtMatmulAlgoGetHeuristic",
            reason: format!("there is no way to compute {shape:?}"),
        })?;
        Ok(Self {
            product,
            x,
            w,
            out,
            choice,
        })
    }
}

struct Handle(cublasLtHandle_t);

struct Product(cublasLtMatmulDesc_t);

struct Layout(cublasLtMatrixLayout_t);

struct Preference(cublasLtMatmulPreference_t);

impl Product {
    /// `operation` is done with the first factor; sums and factors are float32.
    fn new(compute: cublasComputeType_t, operation: i32) -> Result<Self, DeviceError> {
        let mut raw = std::ptr::null_mut();
        let scale = cudaDataType::CUDA_R_32F;
        // SAFETY: the library stores a handle.
        unsafe { blas!(cublasLtMatmulDescCreate(&raw mut raw, compute, scale)) }?;
        let product = Self(raw);
        let attribute = cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA;
        let (value, bytes) = ((&raw const operation).cast(), size_of_val(&operation));
        // SAFETY: the attribute is an operation, of which so many bytes are read.
        unsafe {
            blas!(cublasLtMatmulDescSetAttribute(
                product.0, attribute, value, bytes
            ))
        }?;
        Ok(product)
    }
}

impl Layout {
    /// Columns `stride` apart, matrices `step`, in elements.
    fn new(
        element: cudaDataType,
        [rows, columns]: [u32; 2],
        stride: u32,
        count: u32,
        step: u64,
    ) -> Result<Self, DeviceError> {
        let mut raw = std::ptr::null_mut();
        let (rows, columns, stride) = (u64::from(rows), u64::from(columns), i64::from(stride));
        // SAFETY: the library stores a handle.
        unsafe {
            blas!(cublasLtMatrixLayoutCreate(
                &raw mut raw,
                element,
                rows,
                columns,
                stride
            ))
        }?;
        let layout = Self(raw);
        let attribute = cublasLtMatrixLayoutAttribute_t::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT;
        // SAFETY: the attribute has four bytes, which are read.
        unsafe {
            blas!(cublasLtMatrixLayoutSetAttribute(
                raw,
                attribute,
                (&raw const count).cast(),
                4
            ))
        }?;
        let attribute =
            cublasLtMatrixLayoutAttribute_t::CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET;
        // SAFETY: the attribute has eight bytes, which are read.
        unsafe {
            blas!(cublasLtMatrixLayoutSetAttribute(
                raw,
                attribute,
                (&raw const step).cast(),
                8
            ))
        }?;
        Ok(layout)
    }
}

impl Preference {
    fn new(alignment: u32) -> Result<Self, DeviceError> {
        use cublasLtMatmulPreferenceAttributes_t as Attribute;
        let mut raw = std::ptr::null_mut();
        // SAFETY: the library stores a handle.
        unsafe { blas!(cublasLtMatmulPreferenceCreate(&raw mut raw)) }?;
        let preference = Self(raw);
        let attribute = Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
        let workspace = WORKSPACE_BYTES;
        let value = (&raw const workspace).cast();
        // SAFETY: the attribute has eight bytes, which are read.
        unsafe {
            blas!(cublasLtMatmulPreferenceSetAttribute(
                raw, attribute, value, 8
            ))
        }?;
        for attribute in [
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        ] {
            let value = (&raw const alignment).cast();
            // SAFETY: the attribute has four bytes, which are read.
            unsafe {
                blas!(cublasLtMatmulPreferenceSetAttribute(
                    raw, attribute, value, 4
                ))
            }?;
        }
        Ok(preference)
    }

    /// What the library expects to be fastest, if it can do it at all.
    fn choose(
        &self,
        handle: &Handle,
        product: &Product,
        a: &Layout,
        b: &Layout,
        out: &Layout,
    ) -> Result<Option<cublasLtMatmulHeuristicResult_t>, DeviceError> {
        let mut choice = cublasLtMatmulHeuristicResult_t {
            algo: sys::cublasLtMatmulAlgo_t { data: [0; 8] },
            workspaceSize: 0,
            state: cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED,
            wavesCount: 0.0,
            reserved: [0; 4],
        };
        let mut count = 0;
        // SAFETY: all handles live; the library writes at most one choice, and how many it wrote.
        let status = unsafe {
            sys::cublasLtMatmulAlgoGetHeuristic(
                handle.0,
                product.0,
                a.0,
                b.0,
                out.0,
                out.0,
                self.0,
                1,
                &raw mut choice,
                &raw mut count,
            )
        };
        if status == cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED {
            return Ok(None);
        }
        succeeded("cublasLtMatmulAlgoGetHeuristic", status)?;
        let is_usable = count > 0 && choice.state == cublasStatus_t::CUBLAS_STATUS_SUCCESS;
        Ok(is_usable.then_some(choice))
    }
}

macro_rules! destroyed_by {
    ($($type:ident: $function:ident;)*) => {$(
        impl Drop for $type {
            fn drop(&mut self) {
                // SAFETY: created along with `self`, and not used afterwards. There is nothing to
                // be done if it fails.
                let _ = unsafe { sys::$function(self.0) };
            }
        }
    )*};
}

destroyed_by! {
    Handle: cublasLtDestroy;
    Product: cublasLtMatmulDescDestroy;
    Layout: cublasLtMatrixLayoutDestroy;
    Preference: cublasLtMatmulPreferenceDestroy;
}
