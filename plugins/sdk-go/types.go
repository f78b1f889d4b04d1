// Package gapura has what plugins in Go see of the host: the types of the contract, and the host's
// functions. The packages validator, template, responder and observer export a plugin's stages.
package gapura

import "gapura/internal/abi"

// Role tells who speaks in a message.
type Role uint8

const (
	System Role = iota
	Developer
	User
	Assistant
	Tool
)

// FinishReason tells why an answer ended.
type FinishReason uint8

const (
	Stop FinishReason = iota
	Length
	ContentFilter
	ToolCalls
)

// ToolCall is a call of a tool, as the model made it in an earlier turn.
type ToolCall struct {
	ID        string
	Name      string
	Arguments string // JSON text
}

// Message is one turn of the conversation.
type Message struct {
	Role       Role
	Content    []string // the text parts, in order
	Name       *string
	ToolCalls  []ToolCall
	ToolCallID *string
}

// Sampling is what the client asked of the sampler; nil is the server's default.
type Sampling struct {
	MaxTokens         *uint32
	Temperature       *float32
	TopP              *float32
	TopK              *uint32
	MinP              *float32
	Seed              *int64
	Stop              []string
	PresencePenalty   *float32
	FrequencyPenalty  *float32
	RepetitionPenalty *float32
}

// Chat is one request, as it stands at this point of the chain.
type Chat struct {
	RequestID string
	Route     string
	Model     string
	Tenant    *string
	Stream    bool
	Messages  []Message // oldest first; never empty
	Sampling  Sampling
	Extra     string // a JSON object
	CallID    string // made by the host; no other chat has it
}

// Grammar is what an answer must match: JSONSchema, Regex or Lark.
type Grammar interface{ grammar() }

type (
	JSONSchema string
	Regex      string
	Lark       string
)

func (JSONSchema) grammar() {}
func (Regex) grammar()      {}
func (Lark) grammar()       {}

// Verdict is what a validator decides: Accept, Amendment, Refusal, Reply or Reroute.
type Verdict interface{ verdict() }

// Accept goes on, unchanged.
type Accept struct{}

// Amendment goes on with these changes; nil leaves the part as it is.
type Amendment struct {
	Messages *[]Message
	Sampling *Sampling
}

// Refusal ends the request: the client gets this error. As an error of a template it does the same.
type Refusal struct {
	Status  uint16 // 400 to 499
	Code    string // such as too_many_messages
	Message string
	Param   *string // such as messages.2.content
}

// Reply ends the request: the client gets this answer.
type Reply struct {
	Text   string
	Finish FinishReason
}

// Reroute starts again on the route of this name.
type Reroute string

func (Accept) verdict()    {}
func (Amendment) verdict() {}
func (Refusal) verdict()   {}
func (Reply) verdict()     {}
func (Reroute) verdict()   {}

func (r Refusal) Error() string { return r.Message }

// Segment is a piece of a prompt: Text, Control or PrefixEnd.
type Segment interface{ segment() }

type (
	// Text is tokenized with special tokens off.
	Text string
	// Control is one special token by its name.
	Control string
	// PrefixEnd tells that all before it is the same for every request of the route.
	PrefixEnd struct{}
)

func (Text) segment()      {}
func (Control) segment()   {}
func (PrefixEnd) segment() {}

// Prompt is a rendered prompt.
type Prompt struct {
	Segments []Segment
	Stop     []string
	Grammar  *Grammar
}

// Context is the answer that a processor is made for.
type Context struct {
	RequestID string
	Route     string
	Model     string
	Tenant    *string
	Stream    bool
	Choice    uint32
	Extra     string
	CallID    string // that of the chat; the same for all its answers
}

// Delta is the next piece of an answer.
type Delta struct {
	Text     string
	TokenIDs []uint32
	Logprobs []float32
}

// Action is what happens to a delta: Emit, Hold or Cut.
type Action interface{ action() }

type (
	// Emit gives the client this text.
	Emit string
	// Hold gives the client nothing yet.
	Hold struct{}
	// Cut ends the answer.
	Cut struct {
		Reason FinishReason
		Text   string
	}
)

func (Emit) action() {}
func (Hold) action() {}
func (Cut) action()  {}

// Outcome is how an answer ended: Finished, Cancelled or Failed.
type Outcome interface{ outcome() }

type (
	// Finished is an answer.
	Finished struct{ Reason FinishReason }
	// Cancelled tells that the client left.
	Cancelled struct{}
	// Failed is an error's code.
	Failed string
)

func (Finished) outcome()  {}
func (Cancelled) outcome() {}
func (Failed) outcome()    {}

// Summary is what an answer took. Times are in microseconds.
type Summary struct {
	RequestID        string
	Route            string
	Model            string
	Tenant           *string
	Stream           bool
	Choice           uint32
	Outcome          Outcome
	PromptTokens     uint32
	CachedTokens     uint32
	CompletionTokens uint32
	Queue            uint64
	Prefill          uint64
	Decode           uint64
	Chain            []string
	CallID           string
}

// Question is what a plugin asks the model.
type Question struct {
	Messages    []Message
	MaxTokens   uint32
	Temperature float32
	Grammar     *Grammar
}

// ModelAnswer is what the model said.
type ModelAnswer struct {
	Text             string
	Finish           FinishReason
	PromptTokens     uint32
	CompletionTokens uint32
}

// ModelError tells why there is no answer.
type ModelError struct {
	Kind    string // budget, depth, deadline, overloaded, invalid or failed
	Message string
}

func (e *ModelError) Error() string { return e.Kind + ": " + e.Message }

// Method is what an HTTP request asks of the server.
type Method uint8

const (
	Get Method = iota
	Head
	Post
	Put
	Patch
	Delete
)

// Header is a line of an HTTP header.
type Header struct {
	Name  string
	Value string
}

// Request is an HTTP request.
type Request struct {
	Method    Method
	URL       string
	Headers   []Header
	Body      []byte
	TimeoutMs *uint32 // the route's limit is the most there can be, and the default
}

// Response is what the server answered, whatever its status says.
type Response struct {
	Status  uint16
	Headers []Header
	Body    []byte
}

// HTTPError tells why there is no response.
type HTTPError struct {
	Kind    string // denied, invalid-request, budget, timeout, too-large, connect, tls or protocol
	Message string
	Limit   uint64 // of too-large: the most bytes
}

func (e *HTTPError) Error() string { return e.Kind + ": " + e.Message }

// TooLarge tells why a value was not kept.
type TooLarge struct {
	Limit uint64 // the most bytes that key and value may have together
}

func (e *TooLarge) Error() string { return "key and value together are too large" }

// Some returns a pointer to value, for options.
func Some[T any](value T) *T { return &value }

func init() {
	abi.Variant[Grammar](JSONSchema(""), Regex(""), Lark(""))
	abi.Variant[Verdict](Accept{}, Amendment{}, Refusal{}, Reply{}, Reroute(""))
	abi.Variant[Segment](Text(""), Control(""), PrefixEnd{})
	abi.Variant[Action](Emit(""), Hold{}, Cut{})
	abi.Variant[Outcome](Finished{}, Cancelled{}, Failed(""))
}
