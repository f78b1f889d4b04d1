package gapura

// Level tells how much a line of the log matters.
type Level uint8

const (
	Debug Level = iota
	Info
	Warn
	Error
)

// Log writes one line to the host's log.
func Log(level Level, message string) { logWrite(level, message) }

// Settings returns the settings of this binding: a JSON object.
func Settings() string { return configGet() }

// CountTokens returns how many tokens text is.
func CountTokens(text string) uint32 { return tokenizerCount(text) }

// AddMetric adds by to the counter name.
func AddMetric(name string, by uint64) { metricsAdd(name, by) }

// ObserveMetric puts value into the histogram name.
func ObserveMetric(name string, value float64) { metricsObserve(name, value) }

// Recall returns the value of key, and whether there is one.
func Recall(key string) ([]byte, bool) { return kvGet(key) }

// Remember puts a value, for ttlMs milliseconds unless nil. The error is a *TooLarge.
func Remember(key string, value []byte, ttlMs *uint64) error { return kvSet(key, value, ttlMs) }

// Forget removes key, and tells whether it was there.
func Forget(key string) bool { return kvDelete(key) }

// Now returns the milliseconds since 1970-01-01 00:00 UTC. Go's own time does not know the time here.
func Now() uint64 { return clockNow() }

// Monotonic returns the nanoseconds since a moment that is the same for one request.
func Monotonic() uint64 { return clockMonotonic() }

// RandomBytes returns count random bytes, at most 4,096. Go's own random numbers are not random here.
func RandomBytes(count uint32) []byte { return randomBytes(count) }

// RandomBits returns 64 random bits.
func RandomBits() uint64 { return randomBits() }

// Ask asks the loaded model, and waits for the whole answer. The error is a *ModelError.
func Ask(question Question) (ModelAnswer, error) { return modelAsk(question) }

// Send sends an HTTP request to a host that the route allows, and waits for the whole response. The
// error is an *HTTPError.
func Send(request Request) (Response, error) { return httpSend(request) }
