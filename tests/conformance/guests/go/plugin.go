// The conformance plugin in Go; ../../README.md says what it does.
package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"gapura"
	"gapura/observer"
	"gapura/responder"
	"gapura/template"
	"gapura/validator"
)

const version = "0.1.0"

func main() {}

func init() {
	validator.Export(validate)
	template.Export(render)
	responder.Export(func(context gapura.Context) responder.Processor {
		return &processor{context: context}
	})
	observer.Export(func(summary gapura.Summary) {
		remember("summary", describeSummary(summary), nil)
	})
}

func command(chat gapura.Chat) []string { return chat.Messages[len(chat.Messages)-1].Content }

// The argument of this index, from 1; empty if there is none.
func argument(command []string, index int) string {
	if index < len(command) {
		return command[index]
	}
	return ""
}

func number(text string) int64 {
	value, _ := strconv.ParseInt(text, 10, 64)
	return value
}

func reasonOf(name string) gapura.FinishReason {
	return gapura.FinishReason(max(0, slices.Index(reasons[:], name)))
}

func refusal(command []string) gapura.Refusal {
	it := gapura.Refusal{Status: uint16(number(argument(command, 1))), Code: argument(command, 2), Message: argument(command, 3)}
	if len(command) > 4 {
		it.Param = &command[4]
	}
	return it
}

func grammar(command []string) *gapura.Grammar {
	text := argument(command, 2)
	var it gapura.Grammar
	switch argument(command, 1) {
	case "json-schema":
		it = gapura.JSONSchema(text)
	case "regex":
		it = gapura.Regex(text)
	case "lark":
		it = gapura.Lark(text)
	default:
		return nil
	}
	return &it
}

func remember(key, value string, ttlMs *uint64) string {
	err := gapura.Remember(key, []byte(value), ttlMs)
	var large *gapura.TooLarge
	if errors.As(err, &large) {
		return fmt.Sprintf("too-large:%d", large.Limit)
	}
	return "kept"
}

func recall(key string) string {
	value, ok := gapura.Recall(key)
	if !ok {
		return "-"
	}
	return "=" + string(value)
}

func ask(chat gapura.Chat) string {
	said, err := gapura.Ask(gapura.Question{
		Messages:    chat.Messages[:len(chat.Messages)-1],
		MaxTokens:   7,
		Temperature: 0.5,
		Grammar:     grammar(command(chat)),
	})
	var failed *gapura.ModelError
	if errors.As(err, &failed) {
		return failed.Kind + ":" + failed.Message
	}
	return fmt.Sprintf("%s|%s|%d|%d", said.Text, reasons[said.Finish], said.PromptTokens, said.CompletionTokens)
}

func send(parts []string) string {
	methods := []string{"get", "head", "post", "put", "patch", "delete"}
	request := gapura.Request{
		Method: gapura.Method(slices.Index(methods, parts[0])),
		URL:    parts[1],
		Body:   []byte(parts[2]),
	}
	if parts[3] != "-" {
		request.TimeoutMs = gapura.Some(uint32(number(parts[3])))
	}
	for pair := range slices.Chunk(parts[4:], 2) {
		request.Headers = append(request.Headers, gapura.Header{Name: pair[0], Value: pair[1]})
	}
	response, err := gapura.Send(request)
	var failed *gapura.HTTPError
	if errors.As(err, &failed) {
		if failed.Kind == "too-large" {
			return fmt.Sprintf("too-large:%d", failed.Limit)
		}
		return failed.Kind + ":" + failed.Message
	}
	var headers []string
	for _, header := range response.Headers {
		headers = append(headers, header.Name+":"+header.Value)
	}
	return fmt.Sprintf("%d|%s|%s", response.Status, list(headers), response.Body)
}

func answer(text string) gapura.Verdict { return gapura.Reply{Text: text} }

func validate(chat gapura.Chat) (gapura.Verdict, error) {
	all := command(chat)
	first, second := argument(all, 1), argument(all, 2)
	butLast := chat.Messages[:len(chat.Messages)-1]
	switch argument(all, 0) {
	case "mirror":
		return gapura.Amendment{Messages: &chat.Messages, Sampling: &chat.Sampling}, nil
	case "amend-messages":
		return gapura.Amendment{Messages: &butLast}, nil
	case "amend-sampling":
		return gapura.Amendment{Sampling: &chat.Sampling}, nil
	case "amend-nothing":
		return gapura.Amendment{}, nil
	case "refuse":
		return refusal(all), nil
	case "answer":
		return gapura.Reply{Text: second, Finish: reasonOf(first)}, nil
	case "reroute":
		return gapura.Reroute(first), nil
	case "fail":
		return nil, errors.New(first)
	case "describe":
		return answer(describeChat(chat)), nil
	case "config":
		return answer(gapura.Settings()), nil
	case "count":
		return answer(fmt.Sprint(gapura.CountTokens(first))), nil
	case "log":
		levels := []string{"debug", "info", "warn", "error"}
		gapura.Log(gapura.Level(slices.Index(levels, first)), second)
	case "add":
		gapura.AddMetric(first, uint64(number(second)))
	case "observe":
		gapura.ObserveMetric(first, float64(number(second))/1000)
	case "remember":
		var ttlMs *uint64
		if len(all) > 3 {
			ttlMs = gapura.Some(uint64(number(all[3])))
		}
		return answer(remember(first, second, ttlMs)), nil
	case "recall":
		return answer(recall(first)), nil
	case "forget":
		return answer(fmt.Sprint(gapura.Forget(first))), nil
	case "time":
		return answer(fmt.Sprintf("%d %d", gapura.Now(), gapura.Monotonic())), nil
	case "random":
		bytes := gapura.RandomBytes(uint32(number(first)))
		return answer(fmt.Sprintf("%x %d", bytes, gapura.RandomBits()>>11)), nil
	case "ask":
		return answer(ask(chat)), nil
	case "send":
		return answer(send(all[1:])), nil
	}
	return gapura.Accept{}, nil
}

func render(chat gapura.Chat) (gapura.Prompt, error) {
	all := command(chat)
	if argument(all, 0) == "refuse" {
		return gapura.Prompt{}, refusal(all)
	}
	prompt := gapura.Prompt{Stop: chat.Sampling.Stop}
	for _, message := range chat.Messages {
		prompt.Segments = append(prompt.Segments, gapura.Control("<"+roles[message.Role]+">"))
		for _, part := range message.Content {
			prompt.Segments = append(prompt.Segments, gapura.Text(part))
		}
		prompt.Segments = append(prompt.Segments, gapura.PrefixEnd{})
	}
	if argument(all, 0) == "grammar" {
		prompt.Grammar = grammar(all)
	}
	return prompt, nil
}

type processor struct {
	context gapura.Context
	pushes  int
}

func (p *processor) Push(delta gapura.Delta) gapura.Action {
	p.pushes++
	parts := strings.SplitN(delta.Text, "/", 3)
	switch parts[0] {
	case "hold":
		return gapura.Hold{}
	case "cut":
		return gapura.Cut{Reason: reasonOf(parts[1]), Text: parts[2]}
	case "context":
		return gapura.Emit(describeContext(p.context))
	case "pushes":
		return gapura.Emit(fmt.Sprint(p.pushes))
	}
	return gapura.Emit(describeDelta(delta))
}

func (p *processor) Finish(reason gapura.FinishReason) gapura.Action {
	if reason == gapura.Length {
		return gapura.Hold{}
	}
	return gapura.Emit(fmt.Sprintf("%s %d", reasons[reason], p.pushes))
}
