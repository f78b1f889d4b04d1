// Package validator exports the stage that judges a chat before it is rendered.
package validator

import (
	"unsafe"

	"gapura"
	"gapura/internal/abi"
)

var validate func(gapura.Chat) (gapura.Verdict, error)

// Export makes f the plugin's validator; call it in an init function. An error is a failure of the
// plugin, which says nothing about the request.
func Export(f func(gapura.Chat) (gapura.Verdict, error)) { validate = f }

// What the stage returns.
type result interface{}

type verdict struct{ Verdict gapura.Verdict }

type failure struct{ Message string }

func init() { abi.Variant[result](verdict{}, failure{}) }

//go:wasmexport gapura:plugin/request-validation@0.1.0#validate
func export(at unsafe.Pointer) unsafe.Pointer {
	defer gapura.Guard()
	chat := abi.Load[gapura.Chat](at)
	abi.Forget()
	decided, err := validate(chat)
	if err != nil {
		return abi.Store[result](failure{err.Error()})
	}
	return abi.Store[result](verdict{decided})
}
