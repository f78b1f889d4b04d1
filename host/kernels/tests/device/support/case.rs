//! [`Case`]: buffers, an operation on them, and the comparison of all that it wrote.

use std::ops::Index;

use gapura_kernels::device::{
    Address, Device, DeviceError, HostDevice, Op, Precision, Region, Specialization,
};

use super::{
    CAPACITY_BYTES, Tolerance, act_bytes, act_values, f32_bytes, kernels, orders, u32_bytes,
};

#[derive(Debug, Clone, Copy)]
enum Element {
    Act(Precision),
    Byte,
}

impl Element {
    fn values(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Self::Act(precision) => act_values(precision, bytes),
            Self::Byte => bytes.iter().map(|&byte| f32::from(byte)).collect(),
        }
    }
}

/// A buffer of a [`Case`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Buffer(usize);

struct Content {
    bytes: Vec<u8>,
    element: Element,
    tolerance: Tolerance,
}

/// Where a device has the buffers of a case.
pub(crate) struct Placed(Vec<Region>);

impl Index<Buffer> for Placed {
    type Output = Address;

    fn index(&self, buffer: Buffer) -> &Address {
        &self.0[buffer.0].address
    }
}

/// What a device left in the buffers.
pub(crate) struct Results(Vec<(Element, Vec<u8>)>);

impl Results {
    pub(crate) fn bytes(&self, buffer: Buffer) -> &[u8] {
        &self.0[buffer.0].1
    }

    /// Of float32 or act.
    pub(crate) fn values(&self, buffer: Buffer) -> Vec<f32> {
        let (element, bytes) = &self.0[buffer.0];
        element.values(bytes)
    }

    pub(crate) fn u32s(&self, buffer: Buffer) -> Vec<u32> {
        let words = self.bytes(buffer).as_chunks().0;
        words.iter().map(|word| u32::from_le_bytes(*word)).collect()
    }
}

/// Buffers, and operations on them that both devices run.
pub(crate) struct Case {
    pub(crate) specialization: Specialization,
    contents: Vec<Content>,
}

impl Case {
    pub(crate) fn new(specialization: Specialization) -> Self {
        Self {
            specialization,
            contents: Vec::new(),
        }
    }

    fn add(&mut self, bytes: Vec<u8>, element: Element, tolerance: Tolerance) -> Buffer {
        self.contents.push(Content {
            bytes,
            element,
            tolerance,
        });
        Buffer(self.contents.len() - 1)
    }

    fn precision(&self) -> Precision {
        self.specialization.precision
    }

    /// Bytes that are compared bit by bit.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Buffer {
        self.add(bytes.to_vec(), Element::Byte, Tolerance::EXACT)
    }

    pub(crate) fn u32s(&mut self, values: &[u32]) -> Buffer {
        self.bytes(&u32_bytes(values))
    }

    pub(crate) fn i32s(&mut self, values: &[i32]) -> Buffer {
        let words: Vec<u32> = values.iter().map(|value| value.cast_unsigned()).collect();
        self.u32s(&words)
    }

    /// Float32 that no operation changes.
    pub(crate) fn f32s(&mut self, values: &[f32]) -> Buffer {
        self.f32s_within(values, Tolerance::EXACT)
    }

    /// Float32 that an operation changes.
    pub(crate) fn f32s_within(&mut self, values: &[f32], tolerance: Tolerance) -> Buffer {
        let bytes = f32_bytes(values);
        self.add(bytes, Element::Act(Precision::F32), tolerance)
    }

    /// Act that no operation changes.
    pub(crate) fn acts(&mut self, values: &[f32]) -> Buffer {
        self.acts_within(values, Tolerance::EXACT)
    }

    /// Act that an operation changes.
    pub(crate) fn acts_within(&mut self, values: &[f32], tolerance: Tolerance) -> Buffer {
        let bytes = act_bytes(self.precision(), values);
        self.add(bytes, Element::Act(self.precision()), tolerance)
    }

    /// Room for float32. What an operation leaves out must be left out by both.
    pub(crate) fn f32_out(&mut self, count: usize, tolerance: Tolerance) -> Buffer {
        self.add(
            vec![0xff; 4 * count],
            Element::Act(Precision::F32),
            tolerance,
        )
    }

    /// Room for act.
    pub(crate) fn act_out(&mut self, count: usize, tolerance: Tolerance) -> Buffer {
        let bytes = self.precision().bytes() as usize * count;
        self.add(vec![0xff; bytes], Element::Act(self.precision()), tolerance)
    }

    /// Room for bytes that are compared bit by bit.
    pub(crate) fn bytes_out(&mut self, count: usize) -> Buffer {
        self.add(vec![0xff; count], Element::Byte, Tolerance::EXACT)
    }

    /// Runs the operations by their references and by their kernels, threads in several orders,
    /// compares every buffer, and gives what the kernels left there. `None`, and a line that says
    /// so, where there is no compiler for the kernels.
    pub(crate) fn check(&self, ops: impl Fn(&Placed) -> Vec<Op>) -> Option<Results> {
        let mut interpreter = HostDevice::interpreter(self.specialization, CAPACITY_BYTES).unwrap();
        let expected = self.run(&mut interpreter, &ops).unwrap();
        let mut found: Option<Results> = None;
        for &order in orders() {
            let mut device = kernels(self.specialization, order)?;
            let results = self.run(&mut *device, &ops).unwrap();
            match &found {
                None => {
                    self.compare(&expected, &results);
                    found = Some(results);
                }
                Some(first) => {
                    for (index, (a, b)) in first.0.iter().zip(&results.0).enumerate() {
                        assert!(a.1 == b.1, "buffer {index} depends on the order of threads");
                    }
                }
            }
        }
        found
    }

    /// Runs the operations by their kernels alone.
    pub(crate) fn emulate(
        &self,
        ops: impl Fn(&Placed) -> Vec<Op>,
    ) -> Option<Result<Results, DeviceError>> {
        let mut device = kernels(self.specialization, 0)?;
        Some(self.run(&mut *device, &ops))
    }

    pub(crate) fn run(
        &self,
        device: &mut dyn Device,
        ops: &impl Fn(&Placed) -> Vec<Op>,
    ) -> Result<Results, DeviceError> {
        let mut regions = Vec::new();
        for content in &self.contents {
            let region = device.allocate(content.bytes.len() as u64)?;
            device.write(region, &content.bytes)?;
            regions.push(region);
        }
        let placed = Placed(regions);
        device.run(&ops(&placed))?;
        let mut results = Vec::new();
        for (content, region) in self.contents.iter().zip(&placed.0) {
            let readback = device.read_back(*region)?;
            results.push((content.element, device.wait(readback)?));
        }
        Ok(Results(results))
    }

    fn compare(&self, expected: &Results, found: &Results) {
        for (buffer, content) in self.contents.iter().enumerate() {
            let (expected, found) = (&expected.0[buffer].1, &found.0[buffer].1);
            let values = |bytes: &Vec<u8>| content.element.values(bytes);
            let what = format!("buffer {buffer} of {:?}", self.specialization);
            content
                .tolerance
                .check(&what, &values(expected), &values(found));
        }
    }
}
