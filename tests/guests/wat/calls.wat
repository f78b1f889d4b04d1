;; world: validator
;; Runs a program of calls: what one call of `random.bytes` for 4,096 bytes gives, 40 bytes an
;; instruction. Byte 0, modulo 15, says what: 1 to 14 call an import each, in the order below, and 0
;; accepts, unless an answer was put over the verdict, at 1,024. Numbers of 32 bits at 4, 8, 12, 16,
;; 20 and 32 and one of 64 at 24 are the arguments; the last of 32 bits is where an answer goes.
;; Unless byte 1 is odd, addresses and lengths are first made to lie within the two pages that there
;; are at the start.
(import "gapura:plugin/log@0.1.0" "write" (func $log (param i32 i32 i32)))
(import "gapura:plugin/config@0.1.0" "get" (func $config (param i32)))
(import "gapura:plugin/tokenizer@0.1.0" "count" (func $count (param i32 i32) (result i32)))
(import "gapura:plugin/metrics@0.1.0" "add" (func $add (param i32 i32 i64)))
(import "gapura:plugin/metrics@0.1.0" "observe" (func $observe (param i32 i32 f64)))
(import "gapura:plugin/kv@0.1.0" "get" (func $kv_get (param i32 i32 i32)))
(import "gapura:plugin/kv@0.1.0" "set" (func $kv_set (param i32 i32 i32 i32 i32 i64 i32)))
(import "gapura:plugin/kv@0.1.0" "delete" (func $kv_delete (param i32 i32) (result i32)))
(import "gapura:plugin/clock@0.1.0" "now" (func $now (result i64)))
(import "gapura:plugin/clock@0.1.0" "monotonic" (func $monotonic (result i64)))
(import "gapura:plugin/random@0.1.0" "bytes" (func $bytes (param i32 i32)))
(import "gapura:plugin/random@0.1.0" "bits" (func $bits (result i64)))
(import "gapura:plugin/model@0.1.0" "ask"
  (func $ask (param i32 i32 i32 f32 i32 i32 i32 i32 i32)))
(import "gapura:plugin/http@0.1.0" "send"
  (func $send (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))
(global $raw (mut i32) (i32.const 0))
(func $address (param $from i32) (result i32)
  (select (local.get $from) (i32.and (local.get $from) (i32.const 0xfffc)) (global.get $raw)))
(func $length (param $from i32) (result i32)
  (select (local.get $from) (i32.and (local.get $from) (i32.const 0xffff)) (global.get $raw)))
(func $run (param $at i32) (param $what i32)
  (local $a i32) (local $b i32) (local $c i32) (local $d i32) (local $e i32) (local $to i32)
  (local $wide i64)
  (global.set $raw (i32.and (i32.load8_u offset=1 (local.get $at)) (i32.const 1)))
  (local.set $a (call $address (i32.load offset=4 (local.get $at))))
  (local.set $b (call $length (i32.load offset=8 (local.get $at))))
  (local.set $c (call $address (i32.load offset=12 (local.get $at))))
  (local.set $d (call $length (i32.load offset=16 (local.get $at))))
  (local.set $e (i32.load offset=20 (local.get $at)))
  (local.set $wide (i64.load offset=24 (local.get $at)))
  (local.set $to (call $address (i32.load offset=32 (local.get $at))))
  (block $send_it (block $ask_it (block $bits_of (block $bytes_of (block $time (block $date (block $forget
    (block $keep (block $look (block $measure (block $more (block $tokens (block $settings
      (block $say
        (br_table $say $settings $tokens $more $measure $look $keep $forget $date $time $bytes_of
          $bits_of $ask_it $send_it (i32.sub (local.get $what) (i32.const 1))))
      (return (call $log
        (select (local.get $e) (i32.and (local.get $e) (i32.const 3)) (global.get $raw))
        (local.get $a) (local.get $b))))
      (return (call $config (local.get $to))))
      (drop (call $count (local.get $a) (local.get $b))) (return))
      (return (call $add (local.get $a) (local.get $b) (local.get $wide))))
      (return (call $observe (local.get $a) (local.get $b)
        (f64.reinterpret_i64 (local.get $wide)))))
      (return (call $kv_get (local.get $a) (local.get $b) (local.get $to))))
      (return (call $kv_set (local.get $a) (local.get $b) (local.get $c) (local.get $d)
        (select (local.get $e) (i32.and (local.get $e) (i32.const 1)) (global.get $raw))
        (local.get $wide) (local.get $to))))
      (drop (call $kv_delete (local.get $a) (local.get $b))) (return))
      (drop (call $now)) (return))
      (drop (call $monotonic)) (return))
      (return (call $bytes (local.get $b) (local.get $to))))
      (drop (call $bits)) (return))
      (return (call $ask (local.get $a) (i32.and (local.get $b) (i32.const 0xff)) (local.get $d)
        (f32.reinterpret_i32 (local.get $e))
        (i32.and (i32.wrap_i64 (local.get $wide)) (i32.const 1))
        (i32.wrap_i64 (i64.shr_u (local.get $wide) (i64.const 32)))
        (local.get $c) (local.get $d) (local.get $to))))
  (call $send
    (select (local.get $e) (i32.rem_u (local.get $e) (i32.const 6)) (global.get $raw))
    (local.get $a) (local.get $b) (local.get $c)
    (i32.and (local.get $d) (i32.const 0xff))
    (local.get $c) (local.get $d)
    (i32.and (i32.wrap_i64 (local.get $wide)) (i32.const 1))
    (i32.wrap_i64 (i64.shr_u (local.get $wide) (i64.const 32)))
    (local.get $to)))
(func (export "gapura:plugin/request-validation@0.1.0#validate") (param i32) (result i32)
  (local $at i32) (local $end i32) (local $what i32)
  (call $bytes (i32.const 4096) (i32.const 16))
  (local.set $at (i32.load (i32.const 16)))
  (local.set $end (i32.add (local.get $at) (i32.const 4080)))
  (loop $again
    (local.set $what (i32.rem_u (i32.load8_u (local.get $at)) (i32.const 15)))
    (if (local.get $what) (then
      (call $run (local.get $at) (local.get $what))
      (local.set $at (i32.add (local.get $at) (i32.const 40)))
      (br_if $again (i32.lt_u (local.get $at) (local.get $end))))))
  (i32.const 1024))
