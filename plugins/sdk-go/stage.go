package gapura

import "fmt"

// Guard is deferred by every stage: it writes a panic to the log, where a plugin's author reads it,
// and lets it go on to end the call.
func Guard() {
	if cause := recover(); cause != nil {
		Log(Error, fmt.Sprintf("panic: %v", cause))
		panic(cause)
	}
}
