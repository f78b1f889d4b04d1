package gapura

import (
	"unsafe"

	"gapura/internal/abi"
)

//go:wasmimport gapura:plugin/log@0.1.0 write
func importLog(level uint32, message string)

//go:wasmimport gapura:plugin/config@0.1.0 get
func importConfig(result unsafe.Pointer)

//go:wasmimport gapura:plugin/tokenizer@0.1.0 count
func importCount(text string) uint32

//go:wasmimport gapura:plugin/metrics@0.1.0 add
func metricsAdd(name string, by uint64)

//go:wasmimport gapura:plugin/metrics@0.1.0 observe
func metricsObserve(name string, value float64)

//go:wasmimport gapura:plugin/kv@0.1.0 get
func importKvGet(key string, result unsafe.Pointer)

//go:wasmimport gapura:plugin/kv@0.1.0 set
func importKvSet(key string, value string, hasTTL uint32, ttlMs uint64, result unsafe.Pointer)

//go:wasmimport gapura:plugin/kv@0.1.0 delete
func importKvDelete(key string) uint32

//go:wasmimport gapura:plugin/clock@0.1.0 now
func clockNow() uint64

//go:wasmimport gapura:plugin/clock@0.1.0 monotonic
func clockMonotonic() uint64

//go:wasmimport gapura:plugin/random@0.1.0 bytes
func importRandomBytes(count uint32, result unsafe.Pointer)

//go:wasmimport gapura:plugin/random@0.1.0 bits
func randomBits() uint64

//go:wasmimport gapura:plugin/model@0.1.0 ask
func importAsk(messages unsafe.Pointer, length, maxTokens uint32, temperature float32, hasGrammar, kind uint32, grammar string, result unsafe.Pointer)

//go:wasmimport gapura:plugin/http@0.1.0 send
func importSend(method uint32, url string, headers unsafe.Pointer, length uint32, body string, hasTimeout, timeoutMs uint32, result unsafe.Pointer)

func logWrite(level Level, message string) { importLog(uint32(level), message) }

func tokenizerCount(text string) uint32 { return importCount(text) }

func configGet() string {
	result := abi.Room(8)
	importConfig(result)
	return abi.Load[string](result)
}

func kvGet(key string) ([]byte, bool) {
	result := abi.Room(12)
	importKvGet(key, result)
	value := abi.Load[*[]byte](result)
	if value == nil {
		return nil, false
	}
	return *value, true
}

func kvSet(key string, value []byte, ttlMs *uint64) error {
	ttl, hasTTL := uint64(0), uint32(0)
	if ttlMs != nil {
		ttl, hasTTL = *ttlMs, 1
	}
	// result<_, kv-error>: a byte, and at 8 a variant of one case whose payload lies at 16.
	result := abi.Room(24)
	importKvSet(key, string(value), hasTTL, ttl, result)
	if *(*byte)(result) == 0 {
		return nil
	}
	return &TooLarge{*(*uint64)(unsafe.Add(result, 16))}
}

func kvDelete(key string) bool { return importKvDelete(key) != 0 }

func randomBytes(count uint32) []byte {
	result := abi.Room(8)
	importRandomBytes(count, result)
	return abi.Load[[]byte](result)
}

func modelAsk(question Question) (ModelAnswer, error) {
	list := (*[2]uint32)(abi.Store(question.Messages))
	hasGrammar, kind, grammar := uint32(0), uint32(0), ""
	if question.Grammar != nil {
		hasGrammar = 1
		switch it := (*question.Grammar).(type) {
		case JSONSchema:
			kind, grammar = 0, string(it)
		case Regex:
			kind, grammar = 1, string(it)
		case Lark:
			kind, grammar = 2, string(it)
		}
	}
	// result<model-answer, model-error>: a byte, and the payload at 4.
	result := abi.Room(24)
	importAsk(abi.Address(list[0]), list[1], question.MaxTokens, question.Temperature, hasGrammar, kind, grammar, result)
	payload := unsafe.Add(result, 4)
	if *(*byte)(result) == 0 {
		return abi.Load[ModelAnswer](payload), nil
	}
	kinds := [...]string{"budget", "depth", "deadline", "overloaded", "invalid", "failed"}
	err := &ModelError{Kind: kinds[*(*byte)(payload)]}
	switch err.Kind {
	case "budget", "invalid", "failed":
		err.Message = abi.Load[string](unsafe.Add(payload, 4))
	}
	return ModelAnswer{}, err
}

func httpSend(request Request) (Response, error) {
	list := (*[2]uint32)(abi.Store(request.Headers))
	hasTimeout, timeoutMs := uint32(0), uint32(0)
	if request.TimeoutMs != nil {
		hasTimeout, timeoutMs = 1, *request.TimeoutMs
	}
	// result<response, http-error>: a byte, and the payload at 8, for the error has 64 bits.
	result := abi.Room(32)
	importSend(uint32(request.Method), request.URL, abi.Address(list[0]), list[1], string(request.Body), hasTimeout, timeoutMs, result)
	payload := unsafe.Add(result, 8)
	if *(*byte)(result) == 0 {
		return abi.Load[Response](payload), nil
	}
	kinds := [...]string{"denied", "invalid-request", "budget", "timeout", "too-large", "connect", "tls", "protocol"}
	err := &HTTPError{Kind: kinds[*(*byte)(payload)]}
	switch err.Kind {
	case "timeout":
	case "too-large":
		err.Limit = *(*uint64)(unsafe.Add(payload, 8))
	default:
		err.Message = abi.Load[string](unsafe.Add(payload, 8))
	}
	return Response{}, err
}
