// Package responder exports the stage that works on answers while they are generated.
package responder

import "gapura"

// Processor works on one answer; its fields are the answer's memory.
type Processor interface {
	// Push is called with every delta, in order.
	Push(gapura.Delta) gapura.Action
	// Finish is called once, after the last delta, unless a plugin cut the answer.
	Finish(gapura.FinishReason) gapura.Action
}

var create func(gapura.Context) Processor

// Export makes f what makes the plugin's processors; call it in an init function.
func Export(f func(gapura.Context) Processor) { create = f }
