//go:build !wasm

package gapura

import "strings"

// Host is what stands in for the host where a test runs; a test sets what its plugin asks for.
var Host struct {
	Settings string
	Logged   []string
	Counters map[string]uint64
	Observed map[string][]float64
	Kept     map[string][]byte
	NowMs    uint64
	Random   uint64
	Answer   func(Question) (ModelAnswer, error)
	Respond  func(Request) (Response, error)
}

func logWrite(_ Level, message string) { Host.Logged = append(Host.Logged, message) }

func configGet() string {
	if Host.Settings == "" {
		return "{}"
	}
	return Host.Settings
}

func tokenizerCount(text string) uint32 { return uint32(len(strings.Fields(text))) }

func metricsAdd(name string, by uint64) {
	if Host.Counters == nil {
		Host.Counters = map[string]uint64{}
	}
	Host.Counters[name] += by
}

func metricsObserve(name string, value float64) {
	if Host.Observed == nil {
		Host.Observed = map[string][]float64{}
	}
	Host.Observed[name] = append(Host.Observed[name], value)
}

func kvGet(key string) ([]byte, bool) {
	value, ok := Host.Kept[key]
	return value, ok
}

func kvSet(key string, value []byte, _ *uint64) error {
	if Host.Kept == nil {
		Host.Kept = map[string][]byte{}
	}
	Host.Kept[key] = append([]byte(nil), value...)
	return nil
}

func kvDelete(key string) bool {
	_, ok := Host.Kept[key]
	delete(Host.Kept, key)
	return ok
}

func clockNow() uint64       { return Host.NowMs }
func clockMonotonic() uint64 { return Host.NowMs * 1_000_000 }

func randomBits() uint64 {
	Host.Random++
	return Host.Random
}

func randomBytes(count uint32) []byte {
	bytes := make([]byte, count)
	for i := range bytes {
		bytes[i] = byte(randomBits())
	}
	return bytes
}

func modelAsk(question Question) (ModelAnswer, error) {
	if Host.Answer == nil {
		return ModelAnswer{}, &ModelError{"failed", "the test gives no answer"}
	}
	return Host.Answer(question)
}

func httpSend(request Request) (Response, error) {
	if Host.Respond == nil {
		return Response{}, &HTTPError{Kind: "connect", Message: "the test gives no response"}
	}
	return Host.Respond(request)
}
