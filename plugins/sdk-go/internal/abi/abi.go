// Package abi moves values of the contract between Go and the host: the canonical ABI of the
// component model, for the types that the contract has.
//
// A Go type stands for one of the contract: a struct for a record, a pointer for an option, a
// string, a slice for a list, an integer of 8 bits for an enum, and an interface for a variant,
// whose cases [Variant] lists. A case without a payload is an empty struct.
package abi

import (
	"fmt"
	"reflect"
	"unsafe"
)

var variants = map[reflect.Type][]reflect.Type{}

// Variant says which types are the cases of the interface V, in the contract's order.
func Variant[V any](cases ...V) {
	var types []reflect.Type
	for _, value := range cases {
		types = append(types, reflect.TypeOf(value))
	}
	variants[reflect.TypeFor[V]()] = types
}

// Size and alignment of a type in memory, in bytes.
type layout struct{ size, align uintptr }

var layouts = map[reflect.Type]layout{}

func layoutOf(t reflect.Type) layout {
	if known, ok := layouts[t]; ok {
		return known
	}
	var it layout
	switch t.Kind() {
	case reflect.Bool, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Int64, reflect.Uint64, reflect.Float32:
		it = layout{t.Size(), t.Size()}
	case reflect.String, reflect.Slice:
		it = layout{8, 4}
	case reflect.Pointer:
		it = ofCases(t.Elem())
	case reflect.Interface:
		it = ofCases(variants[t]...)
	case reflect.Struct:
		it.align = 1
		for i := range t.NumField() {
			field := layoutOf(t.Field(i).Type)
			it.size = up(it.size, field.align) + field.size
			it.align = max(it.align, field.align)
		}
		it.size = up(it.size, it.align)
	default:
		panic(fmt.Sprintf("no type of the contract: %v", t))
	}
	layouts[t] = it
	return it
}

// The layout of a byte that tells the case, and room for any.
func ofCases(types ...reflect.Type) layout {
	it := layout{0, 1}
	for _, t := range types {
		payload := layoutOf(t)
		it.size, it.align = max(it.size, payload.size), max(it.align, payload.align)
	}
	it.size = up(up(1, it.align)+it.size, it.align)
	return it
}

// Where the payload lies behind the byte that tells the case.
func payloadAt(t reflect.Type) uintptr {
	return up(1, layoutOf(t).align)
}

func up(offset, align uintptr) uintptr {
	return (offset + align - 1) &^ (align - 1)
}

// Load reads a T that the host wrote.
func Load[T any](from unsafe.Pointer) T {
	var value T
	load(reflect.ValueOf(&value).Elem(), from)
	return value
}

func load(to reflect.Value, from unsafe.Pointer) {
	t := to.Type()
	switch t.Kind() {
	case reflect.Bool:
		to.SetBool(*(*byte)(from) != 0)
	case reflect.Uint8:
		to.SetUint(uint64(*(*uint8)(from)))
	case reflect.Uint16:
		to.SetUint(uint64(*(*uint16)(from)))
	case reflect.Uint32:
		to.SetUint(uint64(*(*uint32)(from)))
	case reflect.Uint64:
		to.SetUint(*(*uint64)(from))
	case reflect.Int64:
		to.SetInt(*(*int64)(from))
	case reflect.Float32:
		to.SetFloat(float64(*(*float32)(from)))
	case reflect.String:
		to.SetString(String(pair(from)))
	case reflect.Slice:
		at, length := pair(from)
		list := reflect.MakeSlice(t, int(length), int(length))
		size := layoutOf(t.Elem()).size
		for i := range int(length) {
			load(list.Index(i), unsafe.Add(at, uintptr(i)*size))
		}
		to.Set(list)
	case reflect.Pointer:
		if *(*byte)(from) != 0 {
			to.Set(reflect.New(t.Elem()))
			load(to.Elem(), unsafe.Add(from, payloadAt(t)))
		}
	case reflect.Interface:
		value := reflect.New(variants[t][*(*byte)(from)]).Elem()
		load(value, unsafe.Add(from, payloadAt(t)))
		to.Set(value)
	case reflect.Struct:
		offset := uintptr(0)
		for i := range t.NumField() {
			field := layoutOf(t.Field(i).Type)
			offset = up(offset, field.align)
			load(to.Field(i), unsafe.Add(from, offset))
			offset += field.size
		}
	}
}

// The address and length that a string or a list is.
func pair(from unsafe.Pointer) (unsafe.Pointer, uint32) {
	words := (*[2]uint32)(from)
	return Address(words[0]), words[1]
}

// Address makes a pointer of an address that the host or [Store] wrote.
func Address(at uint32) unsafe.Pointer {
	return unsafe.Add(nil, at)
}

// String copies text that the host wrote.
func String(at unsafe.Pointer, length uint32) string {
	if length == 0 {
		return ""
	}
	return string(unsafe.Slice((*byte)(at), length))
}

// List copies a list of numbers that the host wrote.
func List[T any](at unsafe.Pointer, length uint32) []T {
	if length == 0 {
		return nil
	}
	return append([]T(nil), unsafe.Slice((*T)(at), length)...)
}

// Store writes a T for the host, and returns where. It stays there until [Forget].
func Store[T any](value T) unsafe.Pointer {
	v := reflect.ValueOf(&value).Elem()
	to := alloc(layoutOf(v.Type()).size)
	store(to, v)
	// What was written holds addresses, which the garbage collector does not see.
	kept = append(kept, value)
	return to
}

func store(to unsafe.Pointer, value reflect.Value) {
	t := value.Type()
	switch t.Kind() {
	case reflect.Bool:
		*(*bool)(to) = value.Bool()
	case reflect.Uint8:
		*(*uint8)(to) = uint8(value.Uint())
	case reflect.Uint16:
		*(*uint16)(to) = uint16(value.Uint())
	case reflect.Uint32:
		*(*uint32)(to) = uint32(value.Uint())
	case reflect.Uint64:
		*(*uint64)(to) = value.Uint()
	case reflect.Int64:
		*(*int64)(to) = value.Int()
	case reflect.Float32:
		*(*float32)(to) = float32(value.Float())
	case reflect.String:
		text := value.String()
		putPair(to, unsafe.Pointer(unsafe.StringData(text)), len(text))
	case reflect.Slice:
		size := layoutOf(t.Elem()).size
		list := alloc(uintptr(value.Len()) * size)
		for i := range value.Len() {
			store(unsafe.Add(list, uintptr(i)*size), value.Index(i))
		}
		putPair(to, list, value.Len())
	case reflect.Pointer:
		if !value.IsNil() {
			*(*byte)(to) = 1
			store(unsafe.Add(to, payloadAt(t)), value.Elem())
		}
	case reflect.Interface:
		which, payload := caseOf(t, value)
		*(*byte)(to) = which
		store(unsafe.Add(to, payloadAt(t)), payload)
	case reflect.Struct:
		offset := uintptr(0)
		for i := range t.NumField() {
			field := layoutOf(t.Field(i).Type)
			offset = up(offset, field.align)
			store(unsafe.Add(to, offset), value.Field(i))
			offset += field.size
		}
	}
}

func putPair(to, at unsafe.Pointer, length int) {
	*(*[2]uint32)(to) = [2]uint32{uint32(uintptr(at)), uint32(length)}
}

func caseOf(variant reflect.Type, value reflect.Value) (byte, reflect.Value) {
	if value.IsNil() {
		panic(fmt.Sprintf("no %v was returned", variant))
	}
	for i, t := range variants[variant] {
		if value.Elem().Type() == t {
			return byte(i), value.Elem()
		}
	}
	panic(fmt.Sprintf("%v is no case of %v", value.Elem().Type(), variant))
}
