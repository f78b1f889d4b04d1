// Package template exports the stage that turns a chat into a prompt.
package template

import (
	"errors"
	"unsafe"

	"gapura"
	"gapura/internal/abi"
)

var render func(gapura.Chat) (gapura.Prompt, error)

// Export makes f the plugin's template; call it in an init function. An error that is a
// gapura.Refusal ends the request; the stage knows no other error, so f panics where it cannot work.
func Export(f func(gapura.Chat) (gapura.Prompt, error)) { render = f }

// What the stage returns.
type result interface{}

func init() { abi.Variant[result](gapura.Prompt{}, gapura.Refusal{}) }

//go:wasmexport gapura:plugin/prompt-template@0.1.0#render
func export(at unsafe.Pointer) unsafe.Pointer {
	defer gapura.Guard()
	chat := abi.Load[gapura.Chat](at)
	abi.Forget()
	prompt, err := render(chat)
	if err == nil {
		return abi.Store[result](prompt)
	}
	var refusal gapura.Refusal
	if !errors.As(err, &refusal) {
		panic(err)
	}
	return abi.Store[result](refusal)
}
