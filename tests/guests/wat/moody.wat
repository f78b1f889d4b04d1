;; world: responder
;; Does what the first letter of a delta says: L loops, T traps, H holds, X cuts with `[cut]`,
;; B emits 16 MiB, E emits nothing, S emits "*" instead, R emits "* " for itself and a space behind
;; it and holds the rest; any other text passes as it is. At the end it emits ".", and never gives
;; back what it held.
;;
;; An action: tag u8 @0 (emit, hold, cut); emit's text @4; cut's reason @4 and text @8.
(import "[export]gapura:plugin/response-processing@0.1.0" "[resource-new]processor"
  (func $new (param i32) (result i32)))
(data (i32.const 1024) "[cut]")
(data (i32.const 1032) ".")
(data (i32.const 1034) "* ")
(func $emit (param $from i32) (param $len i32) (result i32)
  (i32.store8 (i32.const 0) (i32.const 0))
  (i32.store (i32.const 4) (local.get $from))
  (i32.store (i32.const 8) (local.get $len))
  (i32.const 0))
(func (export "gapura:plugin/response-processing@0.1.0#[constructor]processor")
  (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)
  (call $new (i32.const 1)))
(func (export "gapura:plugin/response-processing@0.1.0#[method]processor.push")
  (param $self i32) (param $text i32) (param $len i32) (param i32 i32 i32 i32) (result i32)
  (local $letter i32)
  (local.set $letter (i32.load8_u (local.get $text)))
  (if (i32.eq (local.get $letter) (i32.const 0x4c)) (then (loop $again (br $again))))
  (if (i32.eq (local.get $letter) (i32.const 0x54)) (then (unreachable)))
  (if (i32.eq (local.get $letter) (i32.const 0x48)) (then
    (i32.store8 (i32.const 0) (i32.const 1))
    (return (i32.const 0))))
  (if (i32.eq (local.get $letter) (i32.const 0x58)) (then
    (i32.store8 (i32.const 0) (i32.const 2))
    (i32.store8 (i32.const 4) (i32.const 2))
    (i32.store (i32.const 8) (i32.const 1024))
    (i32.store (i32.const 12) (i32.const 5))
    (return (i32.const 0))))
  (if (i32.eq (local.get $letter) (i32.const 0x42)) (then
    (drop (memory.grow (i32.const 300)))
    (return (call $emit (i32.const 131072) (i32.const 16777216)))))
  (if (i32.eq (local.get $letter) (i32.const 0x45)) (then
    (return (call $emit (i32.const 0) (i32.const 0)))))
  (if (i32.eq (local.get $letter) (i32.const 0x53)) (then
    (return (call $emit (i32.const 1034) (i32.const 1)))))
  (if (i32.eq (local.get $letter) (i32.const 0x52)) (then
    (return (call $emit (i32.const 1034) (i32.const 2)))))
  (call $emit (local.get $text) (local.get $len)))
(func (export "gapura:plugin/response-processing@0.1.0#[method]processor.finish")
  (param i32 i32) (result i32)
  (call $emit (i32.const 1032) (i32.const 1)))
