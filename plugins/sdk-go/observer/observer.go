// Package observer exports the stage that hears how requests ended.
package observer

import (
	"unsafe"

	"gapura"
	"gapura/internal/abi"
)

var completed func(gapura.Summary)

// Export makes f the plugin's observer; call it in an init function.
func Export(f func(gapura.Summary)) { completed = f }

//go:wasmexport gapura:plugin/completion-observer@0.1.0#completed
func export(at unsafe.Pointer) {
	defer gapura.Guard()
	summary := abi.Load[gapura.Summary](at)
	abi.Forget()
	completed(summary)
}
