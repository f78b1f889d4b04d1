;; world: template
;; Renders the chat's model between `<bos>` and a prefix end; refuses a model that begins with r, and
;; traps where it begins with T.
(@custom "gapura:plugin" "render@0.3.0")
;; Three segments of 12 bytes, control, text and prefix end: tag u8 @0, string @4.
(data (i32.const 1024) "\01\00\00\00\80\04\00\00\05\00\00\00")
(data (i32.const 1036) "\00\00\00\00\00\00\00\00\00\00\00\00")
(data (i32.const 1048) "\02\00\00\00\00\00\00\00\00\00\00\00")
(data (i32.const 1152) "<bos>")
(func (export "gapura:plugin/prompt-template@0.1.0#render") (param $chat i32) (result i32)
  (local $model i32)
  (local.set $model (i32.load offset=16 (local.get $chat)))
  (if (i32.eq (i32.load8_u (local.get $model)) (i32.const 0x54)) (then (unreachable)))
  (if (i32.eq (i32.load8_u (local.get $model)) (i32.const 0x72)) (then
    (i32.store8 (i32.const 0) (i32.const 1))
    (i32.store16 (i32.const 4) (i32.const 422))
    (return (i32.const 0))))
  (i32.store (i32.const 1040) (local.get $model))
  (i32.store (i32.const 1044) (i32.load offset=20 (local.get $chat)))
  (i32.store (i32.const 4) (i32.const 1024))
  (i32.store (i32.const 8) (i32.const 3))
  (i32.const 0))
