package responder

import (
	"unsafe"

	"gapura"
	"gapura/internal/abi"
)

// The processors that the host holds, by the numbers it knows them by.
var (
	processors = map[uint32]Processor{}
	lastNumber uint32
)

//go:wasmimport [export]gapura:plugin/response-processing@0.1.0 [resource-new]processor
func newHandle(number uint32) uint32

//go:wasmexport gapura:plugin/response-processing@0.1.0#[constructor]processor
func construct(
	id unsafe.Pointer, idLen uint32,
	route unsafe.Pointer, routeLen uint32,
	model unsafe.Pointer, modelLen uint32,
	hasTenant uint32, tenant unsafe.Pointer, tenantLen uint32,
	stream, choice uint32,
	extra unsafe.Pointer, extraLen uint32,
	call unsafe.Pointer, callLen uint32,
) uint32 {
	defer gapura.Guard()
	context := gapura.Context{
		RequestID: abi.String(id, idLen),
		Route:     abi.String(route, routeLen),
		Model:     abi.String(model, modelLen),
		Stream:    stream != 0,
		Choice:    choice,
		Extra:     abi.String(extra, extraLen),
		CallID:    abi.String(call, callLen),
	}
	if hasTenant != 0 {
		context.Tenant = gapura.Some(abi.String(tenant, tenantLen))
	}
	abi.Forget()
	lastNumber++
	processors[lastNumber] = create(context)
	return newHandle(lastNumber)
}

//go:wasmexport gapura:plugin/response-processing@0.1.0#[method]processor.push
func push(
	self uint32,
	text unsafe.Pointer, textLen uint32,
	ids unsafe.Pointer, idsLen uint32,
	logprobs unsafe.Pointer, logprobsLen uint32,
) unsafe.Pointer {
	defer gapura.Guard()
	delta := gapura.Delta{
		Text:     abi.String(text, textLen),
		TokenIDs: abi.List[uint32](ids, idsLen),
		Logprobs: abi.List[float32](logprobs, logprobsLen),
	}
	abi.Forget()
	return abi.Store(processors[self].Push(delta))
}

//go:wasmexport gapura:plugin/response-processing@0.1.0#[method]processor.finish
func finish(self, reason uint32) unsafe.Pointer {
	defer gapura.Guard()
	abi.Forget()
	return abi.Store(processors[self].Finish(gapura.FinishReason(reason)))
}

//go:wasmexport gapura:plugin/response-processing@0.1.0#[dtor]processor
func drop(self uint32) { delete(processors, self) }
